// Columns, as columns.py packs them.

/** What a column of the page holds as it is packed; the column is then no longer there. */
function packedOf(name) {
  const element = document.getElementById(`column-${name}`);
  const text = element.textContent;
  element.remove();
  return Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
}

/** The bytes of a column, unpacked. */
async function bytesOf(name) {
  const stream = new Blob([packedOf(name)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A column of one-byte numbers, or of longer ones, whose low bytes come first and then all next ones. */
async function numbersOf(name, Type) {
  const bytes = await bytesOf(name);
  if (Type === Uint8Array) return bytes;
  const size = Type.BYTES_PER_ELEMENT, count = bytes.length / size;
  const numbers = new Type(count);
  for (let place = 0, plane = 0; plane < size; plane++) {
    for (let row = 0; row < count; row++, place++) numbers[row] |= bytes[place] << (8 * plane);
  }
  return numbers;
}

/** Texts, each coded by the one before it, but for one in 32. */
class Texts {
  static block = 32;

  static async of(name) {
    const shared = await numbersOf(`${name}-shared`, Uint16Array);
    const lengths = await numbersOf(`${name}-lengths`, Uint16Array);
    return new Texts(shared, lengths, await bytesOf(`${name}-rests`));
  }

  constructor(shared, lengths, rests) {
    this.shared = shared;
    this.lengths = lengths;
    this.rests = rests;
    this.starts = new Float64Array(Math.ceil(lengths.length / Texts.block));
    this.buffer = new Uint8Array(1 << 17);
    this.decoder = new TextDecoder();
    for (let row = 0, place = 0; row < lengths.length; place += lengths[row++]) {
      if (row % Texts.block === 0) this.starts[row / Texts.block] = place;
    }
  }

  at(row) {
    for (const [each, text] of this.among(row - (row % Texts.block), row + 1)) if (each === row) return text();
  }

  /** Rows from `first`, where a block begins, to before `end`, each with a function that gives its text. */
  *among(first, end) {
    let place = this.starts[first / Texts.block];
    for (let row = first; row < end; row++) {
      const length = this.shared[row] + this.lengths[row];
      this.buffer.set(this.rests.subarray(place, (place += this.lengths[row])), this.shared[row]);
      yield [row, () => this.decoder.decode(this.buffer.subarray(0, length))];
    }
  }
}
