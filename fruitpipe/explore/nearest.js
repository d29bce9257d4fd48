// The nearest images as the run's neighbours have them, which nearest.py packs.

class Nearest {
  static async of(facts) {
    const steps = await numbersOf("nearest-steps", Uint32Array);
    const far = await numbersOf("nearest-far", Uint8Array);
    return new Nearest(facts, steps, far, facts.all ? null : await numbersOf("nearest-rows", Uint32Array));
  }

  constructor(facts, steps, far, rows) {
    Object.assign(this, facts, { steps, far, rows });
    rows?.forEach((step, place) => place && (rows[place] += rows[place - 1]));
  }

  /** Rows of the images nearest to one, and how far they are; null where the page has not got them. */
  to(row) {
    let place = row;
    if (this.rows) {
      let low = 0, high = this.rows.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.rows[middle] < row) low = middle + 1;
        else high = middle;
      }
      if (this.rows[low] !== row) return null;
      place = low;
    }
    const found = [];
    for (let each = place * this.each; each < (place + 1) * this.each; each++) {
      const step = (this.steps[each] >>> 1) ^ -(this.steps[each] & 1);
      if (step) found.push([row + step, (this.far[each] / 255) ** 2 * this.farthest]);
    }
    return found;
  }
}
