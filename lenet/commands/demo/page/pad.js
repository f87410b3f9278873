// The pad: strokes of mouse, finger, pen or arrow keys over a picture that came from elsewhere.

const PEN = 21; // of 280 pixels, about what a digit of MNIST has
const STEP = 10;
const EXAMPLE = [[75, 70], [205, 62], [185, 110], [140, 180], [118, 228]]; // a 7

export class Pad {
  /** `changed(began)` is called after each change, with the time of the event that caused it. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.side = canvas.width;
    this.strokes = []; // each a list of points, or a picture below the later strokes
    this.isExample = false;
    this.pen = { x: this.side / 2, y: this.side / 2, down: false };
    this.pointer = null;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, (event) => this.end(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => {
      this.pen.down = false;
      this.draw();
    });
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  /** A byte a pixel, row by row: how much ink there is. */
  ink() {
    if (this.showsPen) this.draw(false);
    const { data } = this.context.getImageData(0, 0, this.side, this.side);
    const ink = new Uint8Array(this.side ** 2);
    for (let i = 0; i < ink.length; i++) ink[i] = data[4 * i + 3];
    if (this.showsPen) this.draw();
    return ink;
  }

  get showsPen() {
    return document.activeElement === this.canvas && this.canvas.matches(":focus-visible");
  }

  /** Shows a digit that is there until the user draws. */
  showExample() {
    this.strokes = [EXAMPLE];
    this.isExample = true;
    this.draw();
  }

  clear() {
    this.strokes = [];
    this.isExample = this.pen.down = false;
    this.draw();
  }

  undo() {
    this.strokes.pop();
    this.isExample = this.pen.down = false;
    this.draw();
  }

  add(point) {
    if (this.isExample) this.clear();
    this.strokes.push([point]);
  }

  /** Replaces the strokes by an image of bytes (H x W, ink 255). */
  put(image) {
    const [rows, columns] = [image.length, image[0].length];
    const small = new OffscreenCanvas(columns, rows);
    const pixels = new ImageData(columns, rows);
    image.flat().forEach((v, i) => (pixels.data[4 * i + 3] = v));
    small.getContext("2d").putImageData(pixels, 0, 0);
    this.strokes = [{ picture: small }];
    this.isExample = false;
    this.draw();
  }

  draw(withPen = true) {
    const { context: c, side } = this;
    // Ink is opacity; its colour is the page's.
    const colour = getComputedStyle(this.canvas).color;
    c.clearRect(0, 0, side, side);
    c.fillStyle = c.strokeStyle = colour;
    c.lineWidth = PEN;
    c.lineCap = c.lineJoin = "round";
    c.imageSmoothingQuality = "high";
    for (const stroke of this.strokes) {
      if (stroke.picture) {
        c.drawImage(stroke.picture, 0, 0, side, side);
        c.globalCompositeOperation = "source-in";
        c.fillRect(0, 0, side, side);
        c.globalCompositeOperation = "source-over";
        continue;
      }
      c.beginPath();
      c.moveTo(...stroke[0]);
      for (const point of stroke) c.lineTo(...point);
      c.stroke();
    }
    if (withPen && this.showsPen) {
      c.beginPath();
      c.lineWidth = 2;
      c.arc(this.pen.x, this.pen.y, PEN / 2 + 2, 0, 2 * Math.PI);
      c.stroke();
      if (this.pen.down) c.fill();
    }
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const border = this.canvas.clientLeft;
    const scale = this.side / this.canvas.clientWidth;
    return [(event.clientX - box.left - border) * scale, (event.clientY - box.top - border) * scale];
  }

  begin(event) {
    if (this.pointer !== null || event.button !== 0) return;
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.add(this.place(event));
    this.draw();
    this.changed(event.timeStamp);
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const stroke = this.strokes.at(-1);
    // All events since the last frame, so that a quick curve stays round.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) stroke.push(this.place(each));
    this.draw();
    this.changed(event.timeStamp);
  }

  end(event) {
    if (event.pointerId === this.pointer) this.pointer = null;
  }

  key(event) {
    if (event.ctrlKey && event.key === "z") this.undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else if (event.key === " ") {
      const isDown = !this.pen.down;
      if (isDown) this.add([this.pen.x, this.pen.y]);
      this.pen.down = isDown;
      this.draw();
    } else if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      const within = (v) => Math.min(Math.max(v, PEN / 2), this.side - PEN / 2);
      this.pen.x = within(this.pen.x + dx * STEP);
      this.pen.y = within(this.pen.y + dy * STEP);
      if (this.pen.down) this.strokes.at(-1).push([this.pen.x, this.pen.y]);
      this.draw();
      if (!this.pen.down) {
        event.preventDefault();
        return;
      }
    } else return;
    event.preventDefault();
    this.changed(event.timeStamp);
  }
}

export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
