// Numbers as colours: blue below zero, the ground's colour at zero, red above; ink is grey.

import { isDark, onTheme } from "./theme.js";

const LIGHT = { zero: [255, 255, 255], up: [178, 24, 43], down: [33, 102, 172], paper: 255, ink: 0 };
const DARK = { zero: [34, 38, 42], up: [255, 128, 102], down: [92, 178, 255], paper: 34, ink: 255 };

const palette = () => (isDark() ? DARK : LIGHT);

/** The largest distance from zero, for one scale over several pictures. */
export function reach(values) {
  let most = 0;
  for (const v of values) most = Math.max(most, Math.abs(v));
  return most || 1;
}

/** A colour as a pixel of a canvas, for a value from -most to most. */
export function colour(value, most) {
  const part = Math.min(Math.max(value / most, -1), 1);
  return ramps().signed[STEPS + Math.round(part * STEPS)];
}

/** Grey from paper to ink, for values from 0 to 1. */
export function grey(value) {
  return ramps().ink[Math.round(Math.min(Math.max(value, 0), 1) * STEPS)];
}

/** One picture of rows x columns values, a value a pixel, to be drawn larger. */
export function picture(values, rows, columns, shade) {
  const canvas = new OffscreenCanvas(columns, rows);
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = shade(values[i]);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** A canvas of its own for a few values, each `scale` CSS pixels wide. */
export function small(values, rows, columns, scale, shade) {
  const canvas = document.createElement("canvas");
  const sharp = Math.max(1, Math.round(scale * devicePixelRatio));
  canvas.width = columns * sharp;
  canvas.height = rows * sharp;
  canvas.style.width = `${canvas.width / devicePixelRatio}px`;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture(values, rows, columns, shade), 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The colour of numbers above zero, or below. */
export function css(sign) {
  const [r, g, b] = sign > 0 ? palette().up : palette().down;
  return `rgb(${r} ${g} ${b})`;
}

const STEPS = 255;
let made = null;
const known = new Map();
onTheme(() => {
  made = null;
  known.clear();
});

/** All colours in a table, because each drawing needs thousands of them. */
function ramps() {
  if (made) return made;
  const { zero, up, down, paper, ink } = palette();
  const bytes = (from, to, part) => from.map((v, i) => Math.round(v + (to[i] - v) * part));
  const signed = [...Array(2 * STEPS + 1).keys()].map((n) => {
    const part = n / STEPS - 1;
    return packed(bytes(zero, part > 0 ? up : down, Math.abs(part)));
  });
  const [light, dark] = [Array(3).fill(paper), Array(3).fill(ink)];
  const inks = [...Array(STEPS + 1).keys()].map((n) => packed(bytes(light, dark, n / STEPS)));
  made = { signed: Uint32Array.from(signed), ink: Uint32Array.from(inks) };
  return made;
}

const packed = (rgb) => new Uint32Array(new Uint8Array([...rgb, 255]).buffer)[0];

/** A colour of the page's own, as CSS has it now. */
export function own(name) {
  if (!known.has(name)) {
    // A custom property would come back as light-dark(...), a property that uses it as a colour.
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    known.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return known.get(name);
}
