// The page: one drawing, three views of it. `subject` is what the networks look at: a path of the
// server, and the request's body.

import { get, newest, post } from "./api.js";
import { Compare } from "./compare.js";
import { Layers } from "./layers.js";
import { Pad } from "./pad.js";
import { percent } from "./text.js";
import { onTheme, themeButton } from "./theme.js";
import { Unit } from "./unit.js";
import { Walk } from "./walk.js";

const $ = (id) => document.getElementById(id);
const TABS = ["draw", "test", "compare"];

const networks = new Map(); // by id, with their layers
let subject = null;
let current = null; // the network of the first two views
let looked = null; // what it computed for the subject
let layers = null;

const pad = new Pad($("pad"), drawn);
const unit = new Unit($("unit"), () => choose(null));
const walk = new Walk($("test"), sendToPad);
const compare = new Compare($("compare"));

// ---- Looking -----------------------------------------------------------------------------------

/** Sends the changed drawing to the network; `began` is the time of the event that changed it. */
const look = newest(async (began = null) => {
  const ids = shownIds();
  invite();
  if (!subject) return forget();
  const asked = subject;
  const { path, body } = asked;
  const query = new URLSearchParams(ids.map((id) => ["network", id]));
  if (asked.name) query.append("name", asked.name);
  try {
    const found = await (body ? post(`${path}?${query}`, body) : get(`${path}?${query}`));
    fail(null);
    if (asked.picture && subject === asked) {
      pad.put(found.ink);
      asked.picture = false;
      invite();
    }
    show(found.looks);
    if (found.remark) told(`Note: ${found.remark}`);
    else if (began !== null) told(`Answered ${Math.round(performance.now() - began)} ms after the pen moved`);
  } catch (error) {
    fail(error.message);
    if (subject === asked && asked.picture) subject = onPad(); // the picture that the pad shows now
  }
});

function invite() {
  $("invitation").hidden = !pad.isExample && (subject !== null || !pad.isEmpty);
  $("invitation").textContent = pad.isExample ? "An example. Draw your own digit." : "Draw a digit";
  $("invitation").classList.toggle("below", pad.isExample);
}

function shownIds() {
  if (tab() !== "compare") return [current.id];
  return [...new Set([$("first").value, $("second").value].filter((id) => id !== ""))].map(Number);
}

function show(looks) {
  if (tab() === "compare") {
    compare.choose(looks.map((each) => networks.get(each.network)));
    compare.show(looks);
    return;
  }
  if (looks[0].network !== current.id) return; // the user has chosen another one meanwhile
  [looked] = looks;
  answer(current, looked);
  layers.show(looked.stages);
  if (pad.isExample && current.layers.length && !layers.chosen) choose(strongest(current.layers[0]));
  showUnit();
}

/** The place of the layer's number that is farthest from zero. */
function strongest({ name, shape: [, rows, columns] }) {
  const sizes = looked.stages[name].map(Math.abs);
  const at = sizes.indexOf(Math.max(...sizes));
  const [map, row] = [Math.floor(at / (rows * columns)), Math.floor(at / columns) % rows];
  return { layer: name, map, row, column: at % columns };
}

function showUnit() {
  if (layers.chosen && tab() === "draw") unit.show(current, looked?.stages, layers.chosen);
  else unit.hide();
}

function forget() {
  looked = null;
  fail(null);
  told("");
  $("answer").hidden = true;
  layers.show(null);
  showUnit();
  compare.clear();
}

const onPad = () => (pad.isEmpty ? null : { path: "/api/look/drawing", body: pad.ink() });

function drawn(began) {
  subject = onPad();
  look(subject && began);
}

function picture(file) {
  told("");
  subject = { path: "/api/look/picture", body: file, name: file.name, picture: true };
  look();
}

function sendToPad(k, index, truth) {
  subject = { path: `/api/look/test/${k}/${index}`, picture: true };
  const { layers, run_id, channels } = networks.get(k);
  const command = `python -m lenet explain ${run_id?.slice(0, 8)} --image ${index}`;
  const hasPage = run_id && layers.length && channels === 1;
  told(`Test image ${index}: ${truth}.${hasPage ? ` On one page: ${command}` : ""}`);
  $("network").value = k;
  open("draw");
  $("pad").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

// ---- The answer --------------------------------------------------------------------------------

function answer(network, { class: best, probabilities }) {
  $("guess").textContent = network.classes[best];
  $("sureness").textContent = percent(probabilities[best]);
  const list = $("probabilities");
  if (list.dataset.network !== String(network.id)) {
    list.dataset.network = network.id;
    const longest = Math.max(...network.classes.map((name) => name.length));
    list.style.setProperty("--label", `${0.62 * Math.min(longest, 16) + 0.4}rem`);
    list.classList.toggle("long", longest > 3);
    list.replaceChildren(...network.classes.map((name, k) => row(network, name, k)));
  }
  probabilities.forEach((part, k) => {
    const [, bar, text] = list.children[k].children;
    bar.firstElementChild.style.width = `${100 * part}%`;
    text.textContent = percent(part);
    list.children[k].classList.toggle("best", k === best);
    list.children[k].setAttribute("aria-selected", k === best);
  });
  $("answer").hidden = false;
}

/** A class's probability; a click on it selects the class's score in the last layer. */
function row(network, name, k) {
  const item = document.createElement("li");
  item.setAttribute("role", "option");
  const [label, bar, text] = ["span", "span", "span"].map((tag) => document.createElement(tag));
  label.textContent = name;
  bar.append(document.createElement("i"));
  bar.firstElementChild.className = "bar";
  text.className = "percent";
  item.append(label, bar, text);
  if (!network.layers.length) return item;
  item.tabIndex = k ? -1 : 0; // Tab stops once; the arrow keys move between the classes
  const pick = () => tab() === "draw" && choose({ layer: "output", map: k, row: 0, column: 0 });
  item.addEventListener("pointermove", (event) => event.pointerType !== "touch" && pick());
  item.addEventListener("pointerdown", pick);
  item.addEventListener("focus", () => item.matches(":focus-visible") && pick());
  item.addEventListener("keydown", (event) => {
    const next = { ArrowDown: item.nextSibling, ArrowUp: item.previousSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  return item;
}

function choose(place) {
  if (JSON.stringify(place) === JSON.stringify(layers.chosen)) return;
  layers.mark(place);
  for (const [k, item] of [...$("probabilities").children].entries())
    item.classList.toggle("chosen", place?.layer === "output" && place.map === k);
  showUnit();
}

// ---- Views -------------------------------------------------------------------------------------

const tab = () => (TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "draw");

function open(name) {
  if (tab() === name) return go();
  location.hash = name; // this calls go()
}

const go = () => turn().catch((error) => fail(error.message));

async function turn() {
  const name = tab();
  for (const each of TABS) {
    $(each).hidden = each !== name;
    $(`tab-${each}`).setAttribute("aria-selected", each === name);
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  $("easel").hidden = name === "test";
  if (name === "compare") $("answer").hidden = true; // it has both answers side by side
  $("network").parentElement.hidden = name === "compare";
  await use(Number($("network").value));
  showUnit();
  if (name === "test") return walk.show(current);
  if (name === "compare") {
    offerRuns();
    compare.choose(await Promise.all(shownIds().map(wired)));
  }
  look();
}

/** A network with its layers; the server is asked only once. */
async function wired(id) {
  if (!networks.get(id)?.layers) networks.set(id, await get(`/api/networks/${id}`));
  return networks.get(id);
}

async function use(id) {
  if (current?.id === id) return;
  current = await wired(id);
  looked = null;
  layers?.remove();
  layers = new Layers(current, choose);
  $("hint").hidden = !current.layers.length;
  $("layers").append(layers.element);
}

async function listNetworks() {
  const found = await get("/api/networks");
  for (const each of found) if (!networks.has(each.id)) networks.set(each.id, each);
  for (const id of ["network", "first", "second"]) {
    const before = $(id).value;
    $(id).replaceChildren(...found.map((each) => new Option(each.name, each.id)));
    if (before !== "") $(id).value = before;
  }
  if (found.length === 1) $("second").replaceChildren();
  else if ($("second").value === $("first").value) $("second").value = found.at(-1).id;
}

async function offerRuns() {
  if ($("runs").childElementCount) return;
  const found = await get("/api/runs").catch(() => []); // without the list, a user can still type an id
  $("runs").replaceChildren(...found.map((run) => new Option(run.name, run.run_id)));
}

async function load(event) {
  event.preventDefault();
  const form = event.target;
  const { source } = form.elements;
  const button = form.querySelector("button");
  button.disabled = true;
  button.textContent = "Loading…";
  try {
    const added = await post("/api/networks", JSON.stringify({ source: source.value.trim() }), "application/json");
    await listNetworks();
    $("second").value = added.id;
    source.value = "";
    fail(null);
    await turn();
  } catch (error) {
    fail(error.message);
  } finally {
    button.disabled = false;
    button.textContent = "Load";
  }
}

function fail(message) {
  $("error").hidden = message === null;
  $("error").textContent = message ?? "";
}

function told(message) {
  $("status").textContent = message;
}

// ---- Events ------------------------------------------------------------------------------------

function listen() {
  $("undo").addEventListener("click", () => {
    pad.undo();
    drawn(null);
  });
  $("clear").addEventListener("click", () => {
    pad.clear();
    drawn(null);
  });
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) picture($("file").files[0]);
    $("file").value = "";
  });
  for (const id of ["network", "first", "second"]) $(id).addEventListener("change", go);
  $("load").addEventListener("submit", load);
  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => open(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    const next = TABS.at((TABS.indexOf(tab()) + way) % TABS.length);
    open(next);
    $(`tab-${next}`).focus();
  });
  addEventListener("hashchange", go);
  addEventListener("keydown", (event) => event.key === "Escape" && layers.chosen && choose(null));
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) picture(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if (tab() === "test") open("draw");
    picture(file);
  });
  onTheme(() => {
    pad.draw();
    layers.draw();
    compare.redraw();
    showUnit();
  });
  themeButton($("theme"));
}

try {
  await listNetworks();
  pad.showExample();
  subject = onPad();
  await turn();
  listen();
} catch (error) {
  fail(error.message);
}
