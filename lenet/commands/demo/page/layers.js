// A network's layers as pictures: maps of images or rows of bars, one canvas a layer. The number that
// is pointed at, or reached by the arrow keys, is the chosen one: {layer, map, row, column}.

import { ARROWS } from "./pad.js";
import { colour, css, grey, own, picture, reach } from "./paint.js";
import { element } from "./text.js";

const GAP = 1; // CSS pixels around maps
const LARGEST = { input: 5, C1: 3, S2: 5, C3: 6, S4: 9 }; // CSS pixels a value, at most
const COLUMNS = 8; // of maps, at most
const BAR_HEIGHT = 64;

export class Layers {
  /** `choose(place)` is called when a place is chosen; without it, none can be chosen. */
  constructor(network, choose = null) {
    this.network = network;
    this.choose = choose;
    this.chosen = null;
    this.stages = null;
    const [first] = network.layers;
    const side = network.image_size;
    const shown = network.layers.filter((layer) => layer.name !== "output");
    const input = { name: "input", title: "as the network sees it", shape: [network.channels, side, side] };
    this.views = (first ? [input, ...shown] : [input]).map((layer) => this.view(layer));
    this.element = element("div", "", "layers");
    this.element.append(...this.views.map((view) => view.element));
    if (!first) {
      const told = `The layers of a LeNet-5 are shown here; this network is a ${network.kind}.`;
      this.element.append(element("p", told));
    }
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.element);
  }

  remove() {
    this.watcher.disconnect();
    this.element.remove();
  }

  show(stages) {
    this.stages = stages;
    this.draw();
  }

  /** Marks a place; with null, none. */
  mark(place) {
    this.chosen = place;
    this.draw();
  }

  draw() {
    for (const view of this.views) view.draw();
  }

  view(layer) {
    const section = element("section", "", "layer");
    const [maps, rows, columns] = layer.shape;
    const sizes = rows === 1 ? `${maps} units` : `${maps === 1 ? "" : `${maps} maps of `}${rows}×${columns}`;
    const title = document.createElement("h2");
    title.append(layer.name === "input" ? "Input" : layer.name, " ", element("span", `${layer.title}, ${sizes}`));
    const canvas = document.createElement("canvas");
    canvas.id = this.choose ? `layer-${layer.name}` : "";
    canvas.setAttribute("role", this.choose && layer.name !== "input" ? "application" : "img");
    canvas.setAttribute("aria-label", `${layer.name}: ${layer.title}, ${sizes}`);
    section.append(title, canvas);
    const view = rows === 1 ? new Bars(this, layer, canvas) : new Maps(this, layer, canvas);
    view.element = section;
    if (this.choose && layer.name !== "input") this.listen(view, canvas);
    return view;
  }

  listen(view, canvas) {
    canvas.tabIndex = 0;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const place = view.hit(event.clientX - box.left, event.clientY - box.top);
      if (place) this.choose(place);
    };
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") point(event);
    });
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible") && this.chosen?.layer !== view.layer.name)
        this.choose(view.first());
    });
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS) || this.chosen?.layer !== view.layer.name) return;
      event.preventDefault();
      const next = view.step(this.chosen, ...ARROWS[event.key]);
      if (next) this.choose(next);
    });
  }

  /** The block of layer `name` that the chosen number reads. */
  fed(name) {
    const place = this.chosen;
    const layer = place && this.network.layers.find((each) => each.name === place.layer);
    if (layer?.source !== name) return null;
    const { size, stride } = layer;
    const [row, column] = [place.row * stride, place.column * stride];
    return { maps: new Set(layer.feeding[place.map]), row, column, size };
  }
}

class View {
  constructor(owner, layer, canvas) {
    Object.assign(this, { owner, layer, canvas });
    [this.maps, this.rows, this.columns] = layer.shape;
    this.context = canvas.getContext("2d");
  }

  get values() {
    return this.owner.stages?.[this.layer.name] ?? null;
  }

  /** Sets the canvas' size, in device pixels, and fills it. */
  begin(width, height, ground) {
    if (this.canvas.width !== width || this.canvas.height !== height)
      Object.assign(this.canvas, { width, height });
    this.context.fillStyle = own(ground);
    this.context.fillRect(0, 0, width, height);
    this.canvas.style.width = `${width / devicePixelRatio}px`;
    this.canvas.style.height = `${height / devicePixelRatio}px`;
  }

  get room() {
    return Math.floor(this.owner.element.clientWidth * devicePixelRatio);
  }
}

class Maps extends View {
  get across() {
    return Math.min(this.maps, COLUMNS);
  }

  draw() {
    const gap = Math.round(GAP * devicePixelRatio);
    const { across, rows, columns, context: c, values } = this;
    if (!this.room) return;
    const fits = Math.floor((this.room - gap * (across + 1)) / (across * columns));
    const most = Math.round((LARGEST[this.layer.name] ?? 4) * devicePixelRatio);
    this.scale = Math.max(1, Math.min(fits, most));
    this.pitch = [columns * this.scale + gap, rows * this.scale + gap];
    const down = Math.ceil(this.maps / across);
    this.begin(across * this.pitch[0] + gap, down * this.pitch[1] + gap, "--line");
    c.imageSmoothingEnabled = false;
    const shade = this.shade(values);
    const size = rows * columns;
    for (let k = 0; k < this.maps; k++) {
      const [x, y] = this.corner(k);
      const map = values?.slice(k * size, (k + 1) * size) ?? new Array(size).fill(0);
      c.drawImage(picture(map, rows, columns, shade), x, y, columns * this.scale, rows * this.scale);
    }
    this.outline();
  }

  shade(values) {
    const { name } = this.layer;
    if (name !== "input") {
      const most = values ? reach(values) : 1;
      return (v) => colour(v, most);
    }
    if (!values) return () => grey(0);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (v) => grey((v - low) / (high - low || 1));
  }

  outline() {
    const fed = this.owner.fed(this.layer.name);
    const { chosen } = this.owner;
    for (let k = 0; k < this.maps; k++) {
      if (fed?.maps.has(k)) this.box(k, fed.row, fed.column, fed.size);
      if (chosen?.layer === this.layer.name && chosen.map === k) this.box(k, chosen.row, chosen.column, 1);
    }
  }

  box(k, row, column, size) {
    const { context: c, scale } = this;
    const [x, y] = this.corner(k);
    const line = Math.round(2 * devicePixelRatio);
    // Around the values, but never outside the canvas.
    const left = Math.max(x + column * scale - line / 2, line / 2);
    const top = Math.max(y + row * scale - line / 2, line / 2);
    const right = Math.min(x + (column + size) * scale + line / 2, this.canvas.width - line / 2);
    const bottom = Math.min(y + (row + size) * scale + line / 2, this.canvas.height - line / 2);
    // Two lines, so that it shows on any colour.
    for (const [name, width] of [["--paper", 2 * line], ["--ink", line]]) {
      c.strokeStyle = own(name);
      c.lineWidth = width;
      c.strokeRect(left, top, right - left, bottom - top);
    }
  }

  corner(k) {
    const gap = this.pitch[0] - this.columns * this.scale;
    return [gap + (k % this.across) * this.pitch[0], gap + Math.floor(k / this.across) * this.pitch[1]];
  }

  hit(cssX, cssY) {
    const [x, y] = [cssX * devicePixelRatio, cssY * devicePixelRatio];
    const right = Math.min(Math.floor(x / this.pitch[0]), this.across - 1);
    const map = right + this.across * Math.floor(y / this.pitch[1]);
    if (!(x >= 0 && y >= 0 && map < this.maps)) return null;
    const [left, top] = this.corner(map);
    const column = Math.min(Math.max(Math.floor((x - left) / this.scale), 0), this.columns - 1);
    const row = Math.min(Math.max(Math.floor((y - top) / this.scale), 0), this.rows - 1);
    return { layer: this.layer.name, map, row, column };
  }

  first() {
    const [row, column] = [this.rows >> 1, this.columns >> 1];
    return { layer: this.layer.name, map: 0, row, column };
  }

  /** The place that an arrow key leads to; beyond a map's edge lies the next map. */
  step(place, dx, dy) {
    const down = Math.ceil(this.maps / this.across);
    const x = (place.map % this.across) * this.columns + place.column + dx;
    const y = Math.floor(place.map / this.across) * this.rows + place.row + dy;
    if (x < 0 || y < 0 || x >= this.across * this.columns || y >= down * this.rows) return null;
    const map = Math.floor(x / this.columns) + this.across * Math.floor(y / this.rows);
    if (map >= this.maps) return null;
    return { layer: place.layer, map, row: y % this.rows, column: x % this.columns };
  }
}

class Bars extends View {
  draw() {
    const { context: c, values, maps } = this;
    if (!this.room) return;
    this.pitch = Math.max(1, Math.min(Math.floor(this.room / maps), Math.round(8 * devicePixelRatio)));
    const height = Math.round(BAR_HEIGHT * devicePixelRatio);
    this.begin(maps * this.pitch, height, "--raised");
    const fed = this.owner.fed(this.layer.name);
    const { chosen } = this.owner;
    const most = values ? reach(values) : 1;
    // Zero is in the middle, or at the bottom if no value is negative.
    const zero = values && Math.min(...values) >= 0 ? height - 1 : Math.round(height / 2);
    const wide = Math.max(1, this.pitch - Math.max(1, Math.round(this.pitch / 5)));
    for (let k = 0; k < maps; k++) {
      if (chosen?.layer === this.layer.name && chosen.map === k) {
        c.fillStyle = own("--quiet");
        c.fillRect(k * this.pitch, 0, this.pitch, height);
      }
      const v = values?.[k] ?? 0;
      const tall = (Math.abs(v) / most) * (zero - 1);
      c.fillStyle = css(v);
      c.fillRect(k * this.pitch, v > 0 ? zero - tall : zero, wide, tall);
    }
    c.fillStyle = own(fed ? "--ink" : "--line");
    c.fillRect(0, zero, this.canvas.width, fed ? 2 : 1);
  }

  hit(cssX) {
    const map = Math.floor((cssX * devicePixelRatio) / this.pitch);
    return map >= 0 && map < this.maps ? { layer: this.layer.name, map, row: 0, column: 0 } : null;
  }

  first() {
    return { layer: this.layer.name, map: 0, row: 0, column: 0 };
  }

  step(place, dx) {
    const map = place.map + dx;
    return dx && map >= 0 && map < this.maps ? { ...place, map } : null;
  }
}
