// The page: what is shown, chosen and looked for.

const NEAREST = 12;
const LISTED = 300;
const REACH = 14;
const CONTROLS = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu;
const FORMULA = /^('*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-])/;

const byId = (id) => document.getElementById(id);
const inWords = (number) => number.toLocaleString("en");

/** Text that is shown and not obeyed, as escapes.py makes it. */
const visible = (text) =>
  text.replace(CONTROLS, (each) => {
    const code = each.codePointAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });

/** A new element: texts stay texts. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Page {
  constructor(facts) {
    this.facts = facts;
    this.focus = new Set();
    this.selection = null;
    this.current = -1;
    this.hovered = -1;
    this.lasso = null;
    this.near = [];
    this.colourings = [];
    this.legend = new Legend(byId("legend"));
  }

  /** Unpack what the map needs, show it, then the rest. */
  async open() {
    document.documentElement.classList.add("js");
    this.tabs();
    const { facts } = this;
    this.label = await numbersOf("label", facts.labels.length < 256 ? Uint8Array : Uint16Array);
    const places = facts.layout ? ["layout-x", "layout-y"] : ["component-0", "component-1"];
    const [x, y] = await Promise.all(places.map((name) => numbersOf(name, Int16Array)));
    if (facts.layout) this.layout = [x, y];
    try {
      byId("canvas").hidden = false;
      this.map = new PointMap(byId("canvas"), facts.images);
    } catch {
      byId("canvas").hidden = true;
      byId("status").textContent += ", since this browser has no WebGL2";
      for (const each of document.querySelectorAll(".bar, .tools")) each.hidden = true;
    }
    if (this.map) {
      byId("still").setAttribute("hidden", "");
      this.map.onDraw = () => {
        this.pictures?.over(this.map, byId("pictures"), this.current);
        this.mark();
      };
      this.map.place(x, y, Boolean(facts.layout));
      this.paint();
      this.pointer();
    }
    this.controls();
    this.paths = await Texts.of("path");
    this.components = facts.layout ? [] : [x, y];
    for (let number = this.components.length; number < facts.components; number++) {
      this.components.push(await numbersOf(`component-${number}`, Int16Array));
    }
    for (const [number, each] of facts.groupings.entries()) {
      this.colourings.push(new Groups(each, await numbersOf(`grouping-${number}`, Uint8Array)));
    }
    for (const [number, each] of facts.measures.entries()) {
      this.colourings.push(new Ranges(each, await numbersOf(`measure-${number}`, Uint8Array)));
    }
    if (facts.nearest) this.exact = await Nearest.of(facts.nearest);
    this.pictures = await Pictures.of(facts.pictures);
    for (const each of document.querySelectorAll("#lists [data-row]")) each.prepend(this.picture(Number(each.dataset.row), LINE));
    this.map?.draw();
    this.ready = true;
    document.documentElement.dataset.ready = "";
  }

  // ---- what is shown

  /** Whether images are emphasised, by row: those selected, else those of the chosen labels and groups, else all. */
  emphasis() {
    if (this.selection) {
      const chosen = new Uint8Array(this.facts.images);
      for (const row of this.selection) chosen[row] = 1;
      return (row) => chosen[row];
    }
    const among = this.legend.wanted();
    if (!this.focus.size) return among ?? (() => 1);
    const wanted = Uint8Array.from(this.facts.labels, (_, number) => this.focus.has(number));
    return (row) => wanted[this.label[row]] && (!among || among(row));
  }

  paint() {
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => {
      const hex = style.getPropertyValue(name).trim();
      return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
    };
    const palette = Array.from({ length: 8 }, (_, number) => rgb(`--c${number}`));
    const dim = rgb("--dim");
    const { by } = this.legend;
    const order = new Map([...this.focus].map((label, number) => [label, number]));
    const ofLabel = this.facts.labels.map((_, number) => palette[(order.get(number) ?? number) % 8]);
    const scale = this.scale(Array.from({ length: 5 }, (_, number) => rgb(`--s${number}`)));
    const codes = by?.codes ?? this.label, inks = by?.colours({ palette, scale, dim }) ?? ofLabel;
    const shown = this.emphasis();
    const colours = new Uint8Array(4 * this.facts.images);
    let count = 0;
    for (let row = 0, place = 0; row < this.facts.images; row++, place += 4) {
      const bright = shown(row);
      const [red, green, blue, alpha = 255] = bright ? inks[codes[row]] : dim;
      colours[place] = red;
      colours[place + 1] = green;
      colours[place + 2] = blue;
      colours[place + 3] = bright ? alpha : 110;
      count += bright ? 1 : 0;
    }
    this.map?.paint(colours);
    for (const button of document.querySelectorAll("[data-label]")) {
      const label = Number(button.dataset.label);
      const on = !this.focus.size || this.focus.has(label);
      button.setAttribute("aria-pressed", this.focus.has(label));
      button.querySelector("i").style.backgroundColor = on && !by ? `rgb(${ofLabel[label]})` : "var(--dim)";
    }
    byId("all").hidden = !this.focus.size;
    const [low, , high] = byId("scale").children;
    byId("scale").hidden = !by?.unit;
    if (by?.unit) [low.textContent, high.textContent] = ["0", `${by.most} ${by.unit}`];
    this.legend.mark(inks);
    const all = inWords(this.facts.images);
    if (this.map) byId("status").textContent = count === this.facts.images ? `${all} images` : `${inWords(count)} of ${all} images`;
  }

  /** Colours of levels, between those of some; these are like cividis, which looks alike to all eyes. */
  scale(stops) {
    return Array.from({ length: 256 }, (_, level) => {
      const place = (level / 255) * (stops.length - 1), first = Math.min(Math.floor(place), stops.length - 2);
      return stops[first].map((value, channel) => Math.round(value + (stops[first + 1][channel] - value) * (place - first)));
    });
  }

  /** Rings around what is pointed at and chosen, and the lasso. */
  mark() {
    const overlay = byId("overlay"), marks = [];
    const make = (name, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      marks.push(made);
    };
    const ring = (row, name, more) => {
      const [cx, cy] = this.map.pixel(row);
      make("circle", { class: name, cx, cy, r: Math.max(this.map.radius, this.pictures?.reach ?? 0) + more });
    };
    if (this.map) {
      for (const row of this.near) ring(row, "near", 2);
      if (this.hovered >= 0) ring(this.hovered, "hovered", 3);
      if (this.current >= 0) ring(this.current, "current", 5);
      if (this.lasso) make("polygon", { points: this.lasso.map((place) => place.join()).join(" ") });
      if (byId("canvas").matches(":focus-visible")) {
        const [left, top] = [this.map.width / 2, this.map.height / 2];
        make("path", { d: `M${left - 9} ${top}h18M${left} ${top - 9}v18` });
      }
    }
    overlay.replaceChildren(...marks);
  }

  // ---- an image

  /** Its name, the folder that it lies in, and the latter without what all have in common. */
  named(row) {
    const path = this.paths.at(row), cut = path.lastIndexOf("/") + 1, { root } = this.facts;
    return [path.slice(cut), path.slice(0, cut), path.slice(path.startsWith(root) ? root.length : 0, cut)].map(visible);
  }

  ofLabel(row) {
    return visible(this.facts.labels[this.label[row]]) || "no label";
  }

  /** What shows a picture of an image; a text of nothing where there is none. */
  picture(row, side) {
    return this.pictures?.element(row, side) ?? "";
  }

  hover(row, left, top) {
    const tip = byId("tip");
    if (row !== this.hovered) {
      this.hovered = row;
      byId("canvas").classList.toggle("over", row >= 0);
      if (row >= 0 && this.paths) {
        const [name, , folder] = this.named(row), swatch = element("i", { class: "swatch" });
        swatch.style.backgroundColor = `rgb(${this.map.colours.subarray(4 * row, 4 * row + 3).join()})`;
        const of = element("span", { class: "of" }, swatch, this.ofLabel(row));
        tip.replaceChildren(this.picture(row, TIP), element("b", {}, name), element("span", { class: "of" }, folder), of);
      }
      tip.hidden = row < 0 || !this.paths;
      this.mark();
    }
    if (row < 0) return;
    const { offsetWidth, offsetHeight } = tip;
    const right = left + 16 + offsetWidth > this.map.width ? left - 16 - offsetWidth : left + 16;
    const down = top + 16 + offsetHeight > this.map.height ? top - 16 - offsetHeight : top + 16;
    tip.style.transform = `translate(${Math.max(right, 4)}px, ${Math.max(down, 4)}px)`;
  }

  /** Rows of the images nearest to one, and how far they are, by the components that the page has. */
  nearest(row) {
    const { components, facts } = this;
    const own = components.map((values) => values[row]);
    const far = new Float64Array(facts.images);
    for (const [number, values] of components.entries()) {
      for (let each = 0; each < far.length; each++) far[each] += (values[each] - own[number]) ** 2;
    }
    const found = [];
    for (let each = 0; each < far.length; each++) {
      if (each === row || (found.length === NEAREST && far[each] >= found[NEAREST - 1][1])) continue;
      if (found.length === NEAREST) found.pop();
      let place = found.length;
      while (place && found[place - 1][1] > far[each]) place--;
      found.splice(place, 0, [each, far[each]]);
    }
    return found.map(([each, square]) => [each, Math.sqrt(square) * facts.step]);
  }

  /** Show an image's facts; -1 for none. line: of the lists, below which they are shown; null for the tab of what is selected. */
  show(row, line = null) {
    this.current = row;
    const card = byId("image");
    if (line) line.append(card);
    else byId("selected").before(card);
    card.replaceChildren();
    this.near = [];
    for (const each of document.querySelectorAll("[data-row]")) {
      if (Number(each.dataset.row) === row) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
    if (row >= 0 && this.ready) {
      const exact = this.exact?.to(row), near = exact ?? this.nearest(row);
      this.near = near.map(([each]) => each);
      const [name, folder] = this.named(row);
      const facts = element("dl");
      const add = (key, value) => facts.append(element("dt", {}, key), element("dd", {}, value));
      add("label", this.ofLabel(row));
      for (const each of this.colourings) add(each.title, each.said(row));
      const list = this.list(near.map(([each, far]) => [each, far.toFixed(2)]));
      const copy = element("button", { type: "button", class: "small" }, "Copy path");
      copy.onclick = () => navigator.clipboard?.writeText(this.paths.at(row)).then(() => (copy.textContent = "Copied"));
      card.append(
        element("div", { class: "row" }, element("h3", {}, name), copy),
        element("p", { class: "folder" }, folder),
        element("p", { class: "seen" }, this.picture(row, this.pictures?.large), linkTo(this.paths.at(row))), facts,
        element("h4", {}, `Nearest, ${exact ? `exactly, by ${this.exact.metric} of all` : `by ${this.facts.components} of`} ${this.facts.kept} ${this.facts.axis.toLowerCase()}s`), list,
      );
      this.map?.reveal(row);
      if (!line) this.tab("chosen");
    }
    this.map?.draw();
  }

  /** A list of images with what is said of each, as [row, value] pairs. */
  list(entries) {
    const look = this.pictures?.list(entries.map(([row]) => row)) ?? "lines";
    return element("ol", { class: look }, ...entries.map(([row, value]) => this.entry(row, value, look === "tiles" ? TILE : LINE)));
  }

  /** A line or tile that shows an image when it is chosen. */
  entry(row, value, side) {
    const [name, , folder] = this.named(row), label = this.ofLabel(row);
    const swatch = element("i", { class: "swatch" });
    if (this.map) swatch.style.backgroundColor = `rgb(${this.map.colours.subarray(4 * row, 4 * row + 3).join()})`;
    const path = element("span", { class: "path" }, element("b", {}, name), element("span", {}, folder === `${label}/` ? label : `${label} · ${folder}`));
    return element("li", {}, element("button", { type: "button", class: "entry", "data-row": row, title: `${name} (${label})` }, this.picture(row, side), swatch, path, element("span", { class: "value" }, value)));
  }

  // ---- several images

  /** Select rows, with what they are in words; null for none. */
  select(rows, what = "") {
    this.selection = rows;
    this.paint();
    const box = byId("selected");
    if (!this.none) this.none = [...box.childNodes];
    box.replaceChildren(...this.none);
    if (rows) {
      const csv = element("button", { type: "button", class: "small", id: "csv" }, "Save as CSV");
      csv.onclick = () => this.save(rows);
      const clear = element("button", { type: "button", class: "small" }, "Clear");
      clear.onclick = () => this.select(null);
      const few = this.list(Array.from(rows.subarray(0, LISTED), (row) => [row, ""]));
      box.replaceChildren(
        element("div", { class: "row" }, element("span", {}, `${inWords(rows.length)} ${rows.length === 1 ? "image" : "images"} ${what}`), csv, clear),
        few,
      );
      if (rows.length > LISTED) box.append(element("p", { class: "muted" }, `The first ${LISTED}; the CSV has all.`));
      csv.disabled = !rows.length;
      this.tab("chosen");
    }
  }

  /** A file of the paths and labels of rows. What a spreadsheet would compute has an apostrophe before it. */
  save(rows) {
    const cell = (text) => `"${text.replace(FORMULA, "'$1").replaceAll('"', '""')}"`;
    const lines = Array.from(rows, (row) => `${cell(this.paths.at(row))},${cell(this.facts.labels[this.label[row]])}\n`);
    const link = element("a", { download: `images-${this.facts.run}.csv` });
    link.href = URL.createObjectURL(new Blob(['"path","label"\n', ...lines], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /** Select images whose path holds a text, whatever its case. */
  async search(text) {
    const wanted = text.toLowerCase();
    this.query = wanted;
    if (!wanted || !this.paths) return this.select(null);
    const rows = [], step = 1024 * Texts.block;
    for (let first = 0; first < this.facts.images; first += step) {
      for (const [row, path] of this.paths.among(first, Math.min(first + step, this.facts.images))) {
        if (path().toLowerCase().includes(wanted)) rows.push(row);
      }
      await new Promise((then) => setTimeout(then));
      if (this.query !== wanted) return;
    }
    this.select(Uint32Array.from(rows), `with “${visible(text)}” in the path`);
  }

  // ---- how it is used

  tabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    this.tab = (id) => {
      for (const tab of tabs) {
        const chosen = tab.getAttribute("aria-controls") === id;
        tab.setAttribute("aria-selected", chosen);
        tab.tabIndex = chosen ? 0 : -1;
        byId(tab.getAttribute("aria-controls")).hidden = !chosen;
      }
    };
    tabs.forEach((tab, number) => {
      tab.onclick = () => this.tab(tab.getAttribute("aria-controls"));
      tab.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = tabs[(number + step + tabs.length) % tabs.length];
        next.click();
        next.focus();
      };
    });
    this.tab("labels");
  }

  controls() {
    const view = () => {
      const components = byId("view").value === "components";
      byId("axes").hidden = !components;
      if (!components) this.map.place(...this.layout, true);
      else if (this.ready) this.map.place(this.components[byId("across").value], this.components[byId("up").value], false);
      this.map.draw();
    };
    for (const id of ["view", "across", "up"]) byId(id).onchange = view;
    byId("colour").onchange = () => {
      this.legend.show(this.colourings[byId("colour").value] ?? null);
      this.tab("labels");
      this.paint();
    };
    byId("all").onclick = () => this.filter(null);
    byId("lasso").onclick = () => this.toggleLasso();
    byId("inview").onclick = () => this.selectInView();
    byId("closer").onclick = () => this.map.zoomBy(1.6);
    byId("farther").onclick = () => this.map.zoomBy(1 / 1.6);
    byId("whole").onclick = () => this.map.whole();
    byId("help").onclick = () => byId("keys").showModal();
    let waiting;
    byId("query").oninput = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.search(byId("query").value), 150);
    };
    byId("search").onsubmit = (event) => event.preventDefault();
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-row], [data-label], [data-group]");
      if (button?.dataset.row) this.choose(button);
      else if (button?.dataset.label) this.filter(Number(button.dataset.label));
      else if (button) this.only(button.dataset.group === "" ? null : Number(button.dataset.group));
    });
    document.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    if (this.map) new ResizeObserver(() => this.map.resize()).observe(byId("stage"));
  }

  /** Show the image of a line, where that is; one of the lists is closed again by a second click. */
  choose(button) {
    const row = Number(button.dataset.row), line = button.closest("#lists > ol > li");
    const again = line && row === this.current && !button.closest("#image");
    this.show(again ? -1 : row, line);
  }

  /** Choose a label, or leave it out again; null for all of them. */
  filter(label) {
    if (label === null) this.focus.clear();
    else if (!this.focus.delete(label)) this.focus.add(label);
    this.select(null);
  }

  /** Choose a group of the legend, or leave it out again; null for all of them. */
  only(group) {
    this.legend.choose(group);
    this.select(null);
  }

  /** Select what lies in a polygon of pixels, whatever was selected before. */
  selectWithin(polygon, what) {
    if (this.selection) this.select(null);
    this.select(this.map.within(polygon), what);
  }

  toggleLasso() {
    this.drawing = !this.drawing;
    byId("lasso").setAttribute("aria-pressed", this.drawing);
    byId("canvas").classList.toggle("drawing", this.drawing);
  }

  selectInView() {
    const { width, height } = this.map;
    this.selectWithin([[0, 0], [width, 0], [width, height], [0, height]], "in view");
  }

  /** How far from a point it may be pointed at, pixels. */
  reach() {
    return Math.max(REACH, this.pictures?.reach ?? 0);
  }

  pointer() {
    const canvas = byId("canvas"), held = new Map();
    let moved = 0;
    const place = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, place(event));
      moved = 0;
      if (held.size === 1 && (this.drawing || event.shiftKey)) this.lasso = [place(event)];
      else this.lasso = null;
    };
    canvas.onpointermove = (event) => {
      const here = place(event), before = held.get(event.pointerId);
      if (!before) return this.hover(this.map.pick(...here, this.reach()), ...here);
      moved += Math.hypot(here[0] - before[0], here[1] - before[1]);
      held.set(event.pointerId, here);
      if (this.lasso) {
        this.lasso.push(here);
        this.mark();
      } else if (held.size === 2) {
        const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, each]) => each);
        const spread = (one) => Math.max(Math.hypot(one[0] - other[0], one[1] - other[1]), 1);
        this.map.zoomBy(spread(here) / spread(before), ...other);
      } else if (moved > 4) {
        canvas.classList.add("moving");
        this.hover(-1);
        this.map.move(here[0] - before[0], here[1] - before[1]);
      }
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => {
      const here = place(event), lasso = this.lasso;
      held.delete(event.pointerId);
      canvas.classList.remove("moving");
      this.lasso = null;
      if (lasso && moved > 10) {
        if (this.drawing) this.toggleLasso();
        this.selectWithin(lasso, "in the lasso");
      } else if (event.type === "pointerup" && moved <= 4) this.show(this.map.pick(...here, event.pointerType === "touch" ? 24 : this.reach()));
      this.mark();
    };
    canvas.onpointerleave = () => this.hover(-1);
    canvas.onfocus = canvas.onblur = () => this.mark();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.map.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
    }, { passive: false });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const typing = event.target.matches("input, select"), onMap = event.target === byId("canvas");
    const actions = {
      "/": () => byId("query").focus(),
      "?": () => byId("keys").showModal(),
      ...(this.map && {
        l: () => this.toggleLasso(),
        v: () => this.selectInView(),
        "+": () => this.map.zoomBy(1.6),
        "=": () => this.map.zoomBy(1.6),
        "-": () => this.map.zoomBy(1 / 1.6),
        0: () => this.map.whole(),
      }),
      ...(onMap && {
        ArrowLeft: () => this.map.move(60, 0),
        ArrowRight: () => this.map.move(-60, 0),
        ArrowUp: () => this.map.move(0, 60),
        ArrowDown: () => this.map.move(0, -60),
        Enter: () => this.show(this.map.pick(this.map.width / 2, this.map.height / 2, Infinity)),
      }),
    };
    if (event.key === "Escape") this.back();
    else if (!typing && actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  }

  /** Undo the last of lasso, image, selection and labels. */
  back() {
    if (byId("query").value) byId("query").value = "";
    if (document.activeElement === byId("query")) byId("query").blur();
    if (this.drawing) this.toggleLasso();
    else if (this.current >= 0) this.show(-1);
    else if (this.selection) this.select(null);
    else if (this.legend.chosen.size) this.only(null);
    else if (this.focus.size) this.filter(null);
  }
}

await new Page(JSON.parse(byId("facts").textContent)).open();
