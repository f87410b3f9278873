// Two networks on the same drawing.

import { Layers } from "./layers.js";
import { element, percent } from "./text.js";

export class Compare {
  constructor(root) {
    this.verdict = root.querySelector("#verdict");
    this.table = root.querySelector("#sides");
    this.pair = root.querySelector("#pair");
    this.networks = [];
    this.layers = [];
  }

  /** Shows these two networks; nothing happens if they are shown already. */
  choose(networks) {
    if (networks.length === this.networks.length && networks.every((n, i) => n === this.networks[i])) return;
    for (const each of this.layers) each.remove();
    this.networks = networks;
    this.layers = networks.map((network) => new Layers(network));
    const columns = networks.map((network, i) => {
      const column = document.createElement("div");
      column.append(this.layers[i].element);
      return column;
    });
    this.pair.replaceChildren(...columns);
    this.clear();
  }

  clear() {
    this.table.hidden = true;
    const one = "Load a second run, here or with python -m lenet demo RUN_ID RUN_ID.";
    this.verdict.textContent = this.networks.length < 2 ? one : "Draw a digit.";
    for (const each of this.layers) each.show(null);
  }

  show(looks) {
    if (looks.length < 2 || looks.length !== this.networks.length) return this.clear();
    const names = looks.map((look, i) => this.networks[i].classes[look.class]);
    this.verdict.textContent =
      names[0] === names[1] ? `Both read ${names[0]}.` : `They differ: ${names[0]} and ${names[1]}.`;
    const [, ...heads] = this.table.tHead.rows[0].cells;
    heads.forEach((cell, i) => (cell.textContent = this.networks[i].name));
    // A class that both networks have gets one row.
    const classes = [...new Set(this.networks.flatMap((network) => network.classes))];
    const rows = classes.map((name) => {
      const row = document.createElement("tr");
      const head = element("th", name);
      head.scope = "row";
      row.append(head);
      looks.forEach((look, i) => {
        const k = this.networks[i].classes.indexOf(name);
        const cell = row.insertCell();
        if (k >= 0) cell.append(share(look.probabilities[k]));
        cell.classList.toggle("best", k === look.class);
      });
      return row;
    });
    this.table.tBodies[0].replaceChildren(...rows);
    this.table.hidden = false;
    looks.forEach((look, i) => this.layers[i].show(look.stages));
  }

  redraw() {
    for (const each of this.layers) each.draw();
  }
}

function share(part) {
  const both = element("span", percent(part));
  const bar = element("i", "", "bar");
  bar.style.width = `${100 * part}%`;
  both.append(bar);
  return both;
}
