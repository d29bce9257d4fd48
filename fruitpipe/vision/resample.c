/* Weighted sums of lines of 8-bit pixels, in whole numbers, to the bit those of Pillow.

   Nearly all loops that take time are of a fixed length, of which compilers make vector code. */

#include <stdint.h>
#include <stdlib.h>

enum {
    PLACES = 22, /* binary places of a weight; absolute weights add up to less than 2, so that sums fit into 32 bits */
    LANES = 96   /* sums that are made at once */
};

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(ONE_PROCESSOR)
/* Code for three generations of processors; which one runs is decided when the library is loaded. */
#define BEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BEST
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE uint8_t level(int32_t sum) {
    int32_t whole = sum >> PLACES;
    return (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

/* LANES bytes or fewer, each the sum of one byte of each of some lines, which are `stride` bytes apart. */
INLINE void add(const uint8_t *lines, int64_t stride, const int32_t *weights, int64_t taps, uint8_t *to, int64_t lanes) {
    int32_t sums[LANES];
    for (int64_t lane = 0; lane < lanes; lane++) sums[lane] = 1 << (PLACES - 1);
    for (int64_t tap = 0; tap < taps; tap++, lines += stride)
        for (int64_t lane = 0; lane < lanes; lane++) sums[lane] += weights[tap] * lines[lane];
    for (int64_t lane = 0; lane < lanes; lane++) to[lane] = level(sums[lane]);
}

/* Make rows of others, of `width` bytes.

   first: (count,), the first of the rows that a new one is made of
   weights: (count, taps), theirs */
BEST void down(const uint8_t *from, int64_t width, const int32_t *first, const int32_t *weights, int64_t count,
               int64_t taps, uint8_t *to) {
    for (int64_t row = 0; row < count; row++, weights += taps, to += width) {
        const uint8_t *lines = from + first[row] * width;
        int64_t at = 0;
        for (; at + LANES <= width; at += LANES) add(lines + at, width, weights, taps, to + at, LANES);
        add(lines + at, width, weights, taps, to + at, width - at);
    }
}

/* Columns of some rows, each in LANES bytes that follow one another; LANES / bands rows or fewer. */
INLINE void to_columns(const uint8_t *from, int64_t rows, int64_t stride, int64_t columns, int bands, uint8_t *to) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            for (int band = 0; band < bands; band++)
                to[column * LANES + row * bands + band] = from[row * stride + column * bands + band];
}

INLINE void to_rows(const uint8_t *from, int64_t rows, int64_t columns, int bands, uint8_t *to) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            for (int band = 0; band < bands; band++)
                to[(row * columns + column) * bands + band] = from[column * LANES + row * bands + band];
}

INLINE int across_bands(const uint8_t *from, int64_t height, int64_t width, const int32_t *first, const int32_t *weights,
                        int64_t count, int64_t taps, uint8_t *to, const int bands) {
    const int64_t start = first[0], used = first[count - 1] + taps - start, together = LANES / bands;
    uint8_t *old = calloc((size_t)(used + count), LANES), *made = old + used * LANES;
    if (!old) return -1;
    for (int64_t top = 0; top < height; top += together) {
        const int64_t rows = height - top < together ? height - top : together;
        to_columns(from + (top * width + start) * bands, rows, width * bands, used, bands, old);
        for (int64_t column = 0; column < count; column++)
            add(old + (first[column] - start) * LANES, LANES, weights + column * taps, taps, made + column * LANES, LANES);
        to_rows(made, rows, count, bands, to + top * count * bands);
    }
    free(old);
    return 0;
}

/* Make columns of others, of pixels (height, width, bands), of 1 or 3 bands; -1 where there is no memory.

   first: (count,), rising; the first of the columns that a new one is made of
   weights: (count, taps), theirs */
BEST int across(const uint8_t *from, int64_t height, int64_t width, int64_t bands, const int32_t *first,
                const int32_t *weights, int64_t count, int64_t taps, uint8_t *to) {
    return bands == 1 ? across_bands(from, height, width, first, weights, count, taps, to, 1)
                      : across_bands(from, height, width, first, weights, count, taps, to, 3);
}
