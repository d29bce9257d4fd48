// The map: points drawn by WebGL, a view that moves, and which points are where.

const VERTEX = `#version 300 es
in float x, y;
in vec4 colour;
uniform vec2 scale, shift;
uniform float size;
uniform vec2 strength;
out vec4 ink;
void main() {
  gl_Position = vec4(vec2(x, y) * scale + shift, 0.0, 1.0);
  gl_PointSize = size;
  float alpha = colour.a * (colour.a < 0.5 ? strength.x : strength.y);
  ink = vec4(colour.rgb * alpha, alpha);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 ink;
uniform float size;
out vec4 pixel;
void main() {
  float distance = length(gl_PointCoord - 0.5) * size;
  pixel = ink * clamp(0.5 * size - distance + 0.25, 0.0, 1.0);
}`;
const CLOSEST = 4000;
const TOOLS = 44; // pixels at the right that buttons are over

class PointMap {
  /** Throws where there is no WebGL2. */
  constructor(canvas, count) {
    this.canvas = canvas;
    this.count = count;
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true }));
    if (!gl) throw new Error("no WebGL2");
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    ["x", "y", "colour"].forEach((name, number) => gl.bindAttribLocation(program, number, name));
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniforms = Object.fromEntries(
      ["scale", "shift", "size", "strength"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.buffers = [0, 1, 2].map(() => gl.createBuffer());
    this.elements = gl.createBuffer();
    this.shown = new Uint32Array(count);
    this.zoom = 1;
    this.middle = [0, 0];
    this.onDraw = () => {};
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    this.width = Math.max(clientWidth, 1);
    this.height = Math.max(clientHeight, 1);
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.ratio = ratio;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.fit();
    this.draw();
  }

  /** Show points at other places, Int16Arrays; `even` where both directions have one scale. */
  place(x, y, even) {
    Object.assign(this, { x, y, even });
    [x, y].forEach((values, number) => this.#upload(number, values, 1, this.gl.SHORT, false));
    this.bounds = [x, y].map((values) => {
      let low = Infinity, high = -Infinity;
      for (const value of values) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      return [low, Math.max(high - low, 1)];
    });
    this.#index();
    this.whole();
  }

  /** RGBA by point, bytes: 0 of the last is hidden, up to 127 are dimmed and not picked, and more are shown. */
  paint(colours) {
    this.colours = colours;
    this.#upload(2, colours, 4, this.gl.UNSIGNED_BYTE, true);
    // Points in the order of their paths would cover each other label by label: they are mixed, dimmed ones below.
    const { count, shown } = this;
    let step = Math.max(1, Math.round(count * 0.618034));
    const divisor = (a, b) => (b ? divisor(b, a % b) : a);
    while (divisor(step, count) !== 1) step++;
    let below = 0, above = count;
    for (let number = 0, row = 0; number < count; number++, row = (row + step) % count) {
      const alpha = colours[4 * row + 3];
      if (alpha > 127) shown[--above] = row;
      else if (alpha) shown[below++] = row;
    }
    shown.copyWithin(below, above);
    this.drawn = below + count - above;
    this.gl.bindBuffer(this.gl.ELEMENT_ARRAY_BUFFER, this.elements);
    this.gl.bufferData(this.gl.ELEMENT_ARRAY_BUFFER, shown.subarray(0, this.drawn), this.gl.DYNAMIC_DRAW);
    this.bright = count - above;
    this.draw();
  }

  whole() {
    this.zoom = 1;
    this.fit();
    this.middle = this.bounds.map(([low, extent]) => low + extent / 2);
    this.middle[0] += TOOLS / 2 / this.scales[0];
    this.draw();
  }

  /** Pixels of one unit in each direction. */
  fit() {
    if (!this.bounds) return;
    const margin = 28;
    const room = [this.width - TOOLS, this.height].map((side) => Math.max(side - 2 * margin, 40));
    let scales = this.bounds.map(([, extent], number) => room[number] / extent);
    if (this.even) scales = scales.fill(Math.min(...scales));
    this.scales = scales;
  }

  /** A point's place on the canvas, in pixels. */
  pixel(row) {
    return [
      this.width / 2 + (this.x[row] - this.middle[0]) * this.scales[0] * this.zoom,
      this.height / 2 - (this.y[row] - this.middle[1]) * this.scales[1] * this.zoom,
    ];
  }

  /** What lies at a pixel, in the points' units. */
  unit(left, top) {
    return [
      this.middle[0] + (left - this.width / 2) / (this.scales[0] * this.zoom),
      this.middle[1] - (top - this.height / 2) / (this.scales[1] * this.zoom),
    ];
  }

  move(right, down) {
    this.middle[0] -= right / (this.scales[0] * this.zoom);
    this.middle[1] += down / (this.scales[1] * this.zoom);
    this.bounds.forEach(([low, extent], number) => {
      this.middle[number] = Math.min(Math.max(this.middle[number], low), low + extent);
    });
    this.draw();
  }

  /** Zoom so that what lies at a pixel stays there. */
  zoomBy(factor, left = this.width / 2, top = this.height / 2) {
    const before = this.unit(left, top);
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), CLOSEST);
    const after = this.unit(left, top);
    this.middle[0] += before[0] - after[0];
    this.middle[1] += before[1] - after[1];
    this.draw();
  }

  /** Show a point, with the view around it if it is not in it. */
  reveal(row) {
    const [left, top] = this.pixel(row);
    if (left > 20 && left < this.width - 60 && top > 20 && top < this.height - 20) return;
    this.middle = [this.x[row], this.y[row]];
    this.draw();
  }

  draw() {
    if (this.waiting || !this.colours || !this.x) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const { gl, uniforms, zoom, ratio } = this;
      gl.viewport(0, 0, this.canvas.width, this.canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      const scale = [(2 * this.scales[0] * zoom) / this.width, (2 * this.scales[1] * zoom) / this.height];
      gl.uniform2f(uniforms.scale, ...scale);
      gl.uniform2f(uniforms.shift, -this.middle[0] * scale[0], -this.middle[1] * scale[1]);
      const room = this.width * this.height * zoom ** 1.5;
      const crowd = Math.max(this.bright, 1) / room;
      const size = Math.min(Math.max(0.6 * Math.sqrt(room / this.count), 1.8), 5) * Math.min(zoom ** 0.25, 3);
      gl.uniform1f(uniforms.size, size * ratio);
      const strength = Math.min(Math.max(0.25 / (crowd * size * size), 0.2), 0.9);
      gl.uniform2f(uniforms.strength, 1, strength);
      this.radius = size / 2;
      gl.drawElements(gl.POINTS, this.drawn, gl.UNSIGNED_INT, 0);
      this.onDraw();
    });
  }

  /** The shown point nearest to a pixel, at most `reach` pixels from it; -1 where there is none. */
  pick(left, top, reach) {
    let found = -1, least = reach * reach;
    for (const row of this.#inside([left - reach, top - reach, left + reach, top + reach])) {
      const [a, b] = this.pixel(row);
      const distance = (a - left) ** 2 + (b - top) ** 2;
      if (distance < least) [found, least] = [row, distance];
    }
    return found;
  }

  /** Shown points in view; null where there are more than `most`. */
  inView(most) {
    const rows = [];
    for (const row of this.#inside([0, 0, this.width, this.height])) {
      const [left, top] = this.pixel(row);
      if (left < 0 || left > this.width || top < 0 || top > this.height) continue;
      if (rows.length === most) return null;
      rows.push(row);
    }
    return rows;
  }

  /** Shown points within a polygon of pixels, [left, top] each, in the order of rows. */
  within(polygon) {
    const lefts = polygon.map(([left]) => left), tops = polygon.map(([, top]) => top);
    const rows = [];
    for (const row of this.#inside([Math.min(...lefts), Math.min(...tops), Math.max(...lefts), Math.max(...tops)])) {
      const [left, top] = this.pixel(row);
      let inside = false;
      for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
        const [a, b] = polygon[i], [c, d] = polygon[j];
        if (b > top !== d > top && left < ((c - a) * (top - b)) / (d - b) + a) inside = !inside;
      }
      if (inside) rows.push(row);
    }
    return Uint32Array.from(rows).sort();
  }

  #upload(number, values, size, type, normalised) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[number]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(number);
    gl.vertexAttribPointer(number, size, type, normalised, 0, 0);
  }

  /** Sort points into the cells of a grid. */
  #index() {
    const { count, bounds, x, y } = this;
    const side = (this.side = Math.min(Math.max(Math.round(Math.sqrt(count / 4)), 8), 512));
    const cells = new Uint32Array(count);
    const ends = (this.ends = new Uint32Array(side * side + 1));
    const [[left, wide], [low, high]] = bounds;
    for (let row = 0; row < count; row++) {
      const column = Math.min((((x[row] - left) / wide) * side) | 0, side - 1);
      const cell = Math.min((((y[row] - low) / high) * side) | 0, side - 1) * side + column;
      cells[row] = cell;
      ends[cell + 1]++;
    }
    for (let cell = 0; cell < side * side; cell++) ends[cell + 1] += ends[cell];
    const next = ends.slice();
    this.sorted = new Uint32Array(count);
    for (let row = 0; row < count; row++) this.sorted[next[cells[row]]++] = row;
  }

  /** Shown points in the cells that a rectangle of pixels touches. */
  *#inside([left, top, right, bottom]) {
    const { side, ends, sorted, colours } = this;
    const cellOf = (value, [low, extent]) => Math.min(Math.max(Math.floor(((value - low) / extent) * side), 0), side - 1);
    const [west, north] = this.unit(left, top), [east, south] = this.unit(right, bottom);
    for (let line = cellOf(south, this.bounds[1]); line <= cellOf(north, this.bounds[1]); line++) {
      const first = line * side + cellOf(west, this.bounds[0]), last = line * side + cellOf(east, this.bounds[0]);
      for (let place = ends[first]; place < ends[last + 1]; place++) {
        if (colours[4 * sorted[place] + 3] > 127) yield sorted[place];
      }
    }
  }
}
