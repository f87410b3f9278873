// What feeds one number: the values it reads, the weights it reads them with, and their sum.

import { colour, reach, small } from "./paint.js";
import { element, number } from "./text.js";

const GRIDS = { 84: [12, 7], 120: [10, 12] }; // rows and columns for a layer of units
const LARGEST = 5; // products that are written out

export class Unit {
  constructor(element, close) {
    this.element = element;
    this.close = close;
  }

  hide() {
    this.element.hidden = true;
  }

  show(network, stages, place) {
    const layer = network.layers.find((each) => each.name === place.layer);
    const parts = [this.head(network, layer, place)];
    if (stages) {
      const found = arithmetic(network, layer, stages, place);
      const value = number(stages[layer.name][index(layer, place)]);
      parts.push(element("p", value, "value"), element("p", sentence(layer, found, value), "sum"));
      parts.push(fields(layer, found));
    } else parts.push(element("p", "Draw a digit to see its value.", "quiet"), kernels(layer, place));
    if (layer.name === "C3") parts.push(connections(layer, place.map));
    const scales = "Red is above zero, blue below. Values, weights and products each have their own scale.";
    parts.push(element("p", scales, "quiet"));
    this.element.replaceChildren(...parts);
    this.element.hidden = false;
  }

  head(network, layer, place) {
    const title = document.createElement("h2");
    const where = element("span", whereabouts(network, layer, place));
    where.setAttribute("aria-live", "polite");
    const button = element("button", "×");
    button.type = "button";
    button.setAttribute("aria-label", "Close");
    button.addEventListener("click", this.close);
    title.append(where, button);
    return title;
  }
}

function whereabouts(network, layer, { map, row, column }) {
  if (layer.name === "output") return `Score of ${network.classes[map]}`;
  if (layer.shape[1] === 1) return `${layer.name}, unit ${map}`;
  return `${layer.name}, map ${map}, row ${row}, column ${column}`;
}

const index = (layer, { map, row, column }) => (map * layer.shape[1] + row) * layer.shape[2] + column;

/** What a number reads: one block for each map, with `valuesOf(map)` and the weights. */
function blocksOf(layer, place, valuesOf) {
  const many = layer.size ** 2;
  const weights = layer.weights[place.map];
  return layer.feeding[place.map].map((map, n) => {
    return { map, values: valuesOf(map), weights: weights.slice(n * many, (n + 1) * many) };
  });
}

/** The blocks with their products, and the sum. */
function arithmetic(network, layer, stages, place) {
  const { size, stride, rule } = layer;
  const [rows, columns] = sourceShape(network, layer);
  const source = stages[layer.source];
  const blocks = blocksOf(layer, place, (map) => {
    const values = [];
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++)
        values.push(source[(map * rows + place.row * stride + i) * columns + place.column * stride + j]);
    return values;
  });
  if (rule === "largest") return { blocks };
  for (const block of blocks)
    block.products = block.values.map((v, i) =>
      rule === "distance" ? -((v - block.weights[i]) ** 2) : v * block.weights[i],
    );
  const sum = blocks.reduce((all, block) => all + total(block.products), 0);
  return { blocks, sum, bias: layer.bias[place.map] };
}

function sourceShape(network, layer) {
  if (layer.source === "input") return [network.image_size, network.image_size];
  return network.layers.find((each) => each.name === layer.source).shape.slice(1);
}

const total = (values) => values.reduce((all, v) => all + v, 0);

function sentence(layer, found, value) {
  if (layer.rule === "largest") return "The largest of the four values below it.";
  if (layer.rule === "distance") return "Minus the squared distance of F6's 84 numbers from the class's bitmap.";
  const many = found.blocks.reduce((all, block) => all + block.products.length, 0);
  const bias = layer.title === "average pooling" ? "" : ` + bias ${number(found.bias)}`;
  const sum = `Sum of ${many} products ${number(found.sum)}${bias} = `;
  const a = number(found.sum + found.bias);
  return layer.function ? `${sum}a = ${a}; ${layer.function} = ${value}` : sum + a;
}

function fields(layer, { blocks }) {
  const box = element("div", "", "fields");
  const asUnits = layer.size === 1;
  const shown = asUnits ? [joined(blocks)] : blocks;
  const most = {};
  for (const kind of ["values", "weights", "products"])
    most[kind] = reach(shown.flatMap((block) => block[kind] ?? []));
  const [rows, columns] = asUnits ? GRIDS[blocks.length] : [layer.size, layer.size];
  const scale = asUnits ? 7 : layer.size === 2 ? 24 : blocks.length > 6 ? 7 : blocks.length > 1 ? 9 : 16;
  for (const block of shown) {
    const field = element("div", "", "field");
    const what = asUnits ? `all ${blocks.length} units of ${layer.source}` : named(layer.source, block.map, shown.length);
    const sum = block.products ? `: ${number(total(block.products))}` : "";
    field.append(element("span", what + sum, "caption"));
    const signs = layer.rule === "distance" ? ["", "−", "→"] : ["", "×", "="];
    ["values", "weights", "products"].forEach((kind, n) => {
      if (!block[kind]?.length) return;
      if (signs[n] && block.values.length) field.append(element("span", signs[n]));
      const canvas = small(block[kind], rows, columns, scale, (v) => colour(v, most[kind]));
      canvas.title = `${kind}, ${what}\n${grid(block[kind], columns)}`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", canvas.title);
      field.append(canvas);
    });
    box.append(field);
  }
  if (layer.rule === "sum" && shown.length === 1 && layer.source !== "input")
    box.append(writtenOut(shown[0], asUnits ? "unit" : "value"));
  return box;
}

/** The weights alone, for use before there is a drawing. */
const kernels = (layer, place) => fields(layer, { blocks: blocksOf(layer, place, () => []) });

function joined(blocks) {
  const all = (kind) => (blocks[0][kind] ? blocks.flatMap((block) => block[kind]) : undefined);
  return { values: all("values"), weights: all("weights"), products: all("products") };
}

function writtenOut({ values, weights, products }, what) {
  const list = document.createElement("div");
  if (!products) return list;
  const order = products.map((p, i) => i).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
  if (order.length > LARGEST) list.append(element("div", "The largest products:", "sum"));
  for (const i of order.slice(0, LARGEST)) {
    const row = `${what} ${i}: ${number(values[i])} × ${number(weights[i])} = ${number(products[i])}`;
    list.append(element("div", row, "sum"));
  }
  return list;
}

function grid(values, columns) {
  const rows = [];
  for (let i = 0; i < values.length; i += columns) rows.push(values.slice(i, i + columns).map(number).join("  "));
  return rows.join("\n");
}

const named = (source, map, count) => {
  if (source !== "input") return `${source} map ${map}`;
  return count === 3 ? ["red", "green", "blue"][map] : "input";
};

/** Table I of the paper, or the same table of a network where every map feeds every map. */
function connections(layer, chosen) {
  const box = element("div", "", "connections");
  const maps = layer.feeding.length;
  const sources = Math.max(...layer.feeding.flat()) + 1;
  const every = layer.feeding.every((maps) => maps.length === sources);
  const told = every ? "every map feeds every map" : "Table I of the paper";
  box.append(element("p", `Which S2 maps (rows) feed which C3 maps (columns): ${told}`));
  const table = document.createElement("table");
  const head = table.insertRow();
  head.append(document.createElement("td"));
  for (let k = 0; k < maps; k++) head.append(element("th", k, k === chosen ? "here" : ""));
  for (let s = 0; s < sources; s++) {
    const row = table.insertRow();
    row.append(element("th", s, layer.feeding[chosen].includes(s) ? "here" : ""));
    for (let k = 0; k < maps; k++) {
      const cell = row.insertCell();
      const on = layer.feeding[k].includes(s);
      cell.classList.toggle("on", on);
      cell.classList.toggle("here", k === chosen);
      cell.setAttribute("aria-label", on ? "feeds" : "does not feed");
    }
  }
  box.append(table);
  return box;
}
