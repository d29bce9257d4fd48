// What the map is coloured by, other than the label: groups of images, or ranges of a number, each shown alone if chosen.

const RANGES = 10;
const FAINT = 128; // the least alpha of what can be pointed at

/** Groups of images. The last one is of all that are in none, where there is such a one. */
class Groups {
  constructor({ title, names, rest }, codes) {
    Object.assign(this, { title, names: names.map(visible), rest: rest ? names.length - 1 : -1, codes });
    this.order = this.names.map((_, group) => group);
  }

  /** RGBA of each code. */
  colours({ palette, dim }) {
    return this.names.map((_, group) => (group === this.rest ? [...dim, FAINT] : [...palette[group % palette.length], 255]));
  }

  swatch(group, colours) {
    return colours[group];
  }

  groupOf(code) {
    return code;
  }

  said(row) {
    return this.names[this.codes[row]];
  }
}

/** Ranges of a number, the largest first. */
class Ranges {
  constructor({ title, most, unit }, codes) {
    Object.assign(this, { title, most, unit, codes });
    const at = (range) => +((range * most) / RANGES).toPrecision(3);
    this.names = Array.from({ length: RANGES }, (_, range) => (range === RANGES - 1 ? `${at(range)} and more` : `${at(range)} to ${at(range + 1)}`));
    this.order = this.names.map((_, range) => RANGES - 1 - range);
  }

  colours({ scale }) {
    return scale.map((colour) => [...colour, 255]);
  }

  swatch(range, colours) {
    return colours[Math.round(((range + 0.5) * 255) / RANGES)];
  }

  groupOf(level) {
    return Math.min(Math.floor((level * RANGES) / 255), RANGES - 1);
  }

  said(row) {
    const level = this.codes[row];
    return `${level === 255 && !this.unit.startsWith("%") ? "≥ " : ""}${((level / 255) * this.most).toFixed(1)} ${this.unit}`;
  }
}

class Legend {
  constructor(box) {
    this.box = box;
    this.chosen = new Set();
    this.by = null;
  }

  /** Show the groups of a colouring; null for labels, which have a list of their own. */
  show(by) {
    this.by = by;
    this.chosen.clear();
    this.box.hidden = !by;
    if (!by) return;
    const counts = new Uint32Array(by.names.length), group = this.#groups();
    for (const code of by.codes) counts[group[code]]++;
    const line = (each) => element("li", {}, element(
      "button", { type: "button", class: "entry", "data-group": each, "aria-pressed": "false" },
      element("i", { class: "swatch" }), element("span", { class: "name" }, by.names[each]),
      element("span", { class: "value" }, inWords(counts[each])),
    ));
    const title = by.title[0].toUpperCase() + by.title.slice(1);
    const hint = `Choose ${by.unit ? "ranges" : "groups"} to see them alone${by.unit ? `; numbers are ${by.unit}` : ""}.`;
    const all = element("button", { type: "button", class: "small", hidden: "" }, "Show all");
    all.dataset.group = "";
    this.box.replaceChildren(
      element("h2", {}, title), element("p", { class: "hint live" }, element("span", {}, hint), all),
      element("ol", {}, ...by.order.filter((each) => counts[each]).map(line)),
    );
  }

  /** Choose a group, or leave it out again; null for all of them. */
  choose(group) {
    if (group === null) this.chosen.clear();
    else if (!this.chosen.delete(group)) this.chosen.add(group);
  }

  /** Whether an image is in a chosen group, by row; null where none is chosen. */
  wanted() {
    if (!this.chosen.size) return null;
    const chosen = Uint8Array.from(this.#groups(), (group) => this.chosen.has(group)), { codes } = this.by;
    return (row) => chosen[codes[row]];
  }

  /** Give the lines the colours of the map. */
  mark(colours) {
    if (!this.by) return;
    for (const button of this.box.querySelectorAll("button")) {
      const { group } = button.dataset;
      if (group === "") button.hidden = !this.chosen.size;
      else {
        const on = this.chosen.has(+group);
        button.setAttribute("aria-pressed", on);
        const [red, green, blue] = this.by.swatch(+group, colours);
        button.querySelector("i").style.backgroundColor = on || !this.chosen.size ? `rgb(${red}, ${green}, ${blue})` : "var(--dim)";
      }
    }
  }

  /** The group of each code. */
  #groups() {
    return Array.from({ length: this.by.unit ? 256 : this.by.names.length }, (_, code) => this.by.groupOf(code));
  }
}
