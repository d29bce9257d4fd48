// Pictures: small ones, in sheets that are unpacked as they are needed, and what shows them.

const SHEETS = 12, CUT = 2000; // sheets kept unpacked, pictures kept cut out
const CROWD = 160; // points in view, beyond which they stay points
const LINE = 40, TILE = 64, TIP = 72, LARGEST = 240, SMALLEST = 20; // CSS pixels
const SHOWN = /^\/[^/].*\.(jpe?g|png|webp|gif|bmp|avif|ico)$/i;

/** What a map remembers of a key, or else what is made; what was asked for longest ago is forgotten. */
function remembered(map, key, most, make) {
  const found = map.get(key) ?? make();
  map.delete(key);
  map.set(key, found);
  if (map.size > most) map.delete(map.keys().next().value);
  return found;
}

class Pictures {
  /** The pictures of a page; null where it has none. */
  static async of(facts) {
    if (!facts) return null;
    const rows = new Uint32Array((await bytesOf("picture-rows")).buffer);
    return new Pictures(facts, rows, await bytesOf("picture-shapes"));
  }

  constructor({ side, sheet }, rows, shapes) {
    Object.assign(this, { side, shapes, size: sheet, across: Math.sqrt(sheet) });
    this.places = new Map(Array.from(rows, (row, place) => [row, place]));
    this.blobs = new Map();
    this.sheets = new Map();
    this.cut = new Map();
    this.work = Promise.resolve();
    this.large = Math.min(3 * side, LARGEST);
    this.reach = 0;
    this.seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.#fill(target);
    }, { rootMargin: "200px" });
  }

  /** What shows a picture, in a square of so many CSS pixels, once it is seen; a text of nothing where there is none. */
  element(row, side) {
    if (!this.places.has(row)) return "";
    const { width, height } = this.#box(row), scale = side / this.side;
    const made = element("canvas", { class: "picture", width, height, "data-picture": row, "aria-hidden": "true" });
    Object.assign(made.style, { width: `${width * scale}px`, height: `${height * scale}px` });
    this.seen.observe(made);
    return made;
  }

  /** The class of a list of some images: tiles, where all have a picture. */
  list(rows) {
    return rows.length && rows.every((row) => this.places.has(row)) ? "tiles" : "lines";
  }

  async #fill(canvas) {
    this.seen.unobserve(canvas);
    const bitmap = await this.#picture(Number(canvas.dataset.picture)).loading;
    if (bitmap) canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.dataset.drawn = "";
  }

  /** Where a picture is in its sheet. */
  #box(row) {
    const place = this.places.get(row), cell = place % this.size;
    return {
      sheet: Math.floor(place / this.size),
      left: (cell % this.across) * this.side,
      top: Math.floor(cell / this.across) * this.side,
      width: this.shapes[2 * place],
      height: this.shapes[2 * place + 1],
    };
  }

  /** A picture: `loading` promises its bitmap, null where there is none, and `bitmap` is that, once it is there. */
  #picture(row) {
    return remembered(this.cut, row, CUT, () => {
      const { sheet, left, top, width, height } = this.#box(row), made = { bitmap: null };
      made.loading = this.#sheet(sheet)
        .then((whole) => whole && createImageBitmap(whole, left, top, width, height))
        .then((bitmap) => (made.bitmap = bitmap));
      return made;
    });
  }

  /** A sheet, unpacked: one after the other, so that not all are held at a time. */
  #sheet(number) {
    return remembered(this.sheets, number, SHEETS, () => {
      if (!this.blobs.has(number)) this.blobs.set(number, new Blob([packedOf(`pictures-${number}`)], { type: "image/webp" }));
      this.work = this.work.then(() => createImageBitmap(this.blobs.get(number))).catch(() => null);
      return this.work;
    });
  }

  /**
   * Draw pictures over the points of a map, where few are in view; `top` is the row whose picture nothing covers.
   * Those that are still packed come with a later drawing; `data-drawn` of the canvas is how many are there.
   */
  over(map, canvas, top) {
    const rows = map.inView(CROWD)?.sort((one, other) => (one === top) - (other === top)), context = canvas.getContext("2d"), { ratio } = map;
    canvas.hidden = !rows;
    canvas.dataset.drawn = 0;
    this.reach = 0;
    if (!rows) return;
    canvas.width = map.canvas.width; // which clears it, too
    canvas.height = map.canvas.height;
    context.scale(ratio, ratio);
    const room = Math.sqrt((map.width * map.height) / Math.max(rows.length, 1));
    const side = Math.min(Math.max(0.7 * room, SMALLEST), 1.5 * this.side);
    for (const row of rows) {
      if (!this.places.has(row)) continue;
      this.reach = side / 2;
      const picture = this.#picture(row);
      if (!picture.bitmap) {
        picture.loading.then((bitmap) => bitmap && map.draw());
        continue;
      }
      const scale = side / this.side, [left, top] = map.pixel(row);
      const [width, height] = [picture.bitmap.width * scale, picture.bitmap.height * scale];
      context.fillStyle = `rgb(${map.colours.subarray(4 * row, 4 * row + 3).join()})`;
      context.fillRect(left - width / 2 - 2, top - height / 2 - 2, width + 4, height + 4);
      context.drawImage(picture.bitmap, left - width / 2, top - height / 2, width, height);
      canvas.dataset.drawn++;
    }
  }
}

/** A link to an image on this machine, if a page from its disk may show it; a text of nothing otherwise. */
function linkTo(path) {
  if (location.protocol !== "file:" || !SHOWN.test(path)) return "";
  const href = `file://${path.split("/").map(encodeURIComponent).join("/")}`;
  return element("a", { href, target: "_blank", rel: "noopener noreferrer" }, "Open the file");
}
