// The test set: which images the network reads wrong, and with what confidence.

import { get } from "./api.js";
import { element, percent } from "./text.js";

const PAGE = 60;

export class Walk {
  /** `look(k, index, truth)` is called when the user chooses an image of network k's test set. */
  constructor(root, look) {
    this.form = root.querySelector("#filter");
    this.found = root.querySelector("#found");
    this.images = root.querySelector("#images");
    this.more = root.querySelector("#more");
    this.look = look;
    this.asked = 0;
    this.form.addEventListener("change", () => this.load());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.more.addEventListener("click", () => this.page());
  }

  async show(network) {
    if (this.network === network && !this.failed) return;
    this.network = network;
    for (const name of ["truth", "guess"]) {
      const all = new Option("all", "");
      const classes = network.classes.map((each, k) => new Option(each, k));
      this.form.elements[name].replaceChildren(all, ...classes);
    }
    await this.load();
  }

  async load() {
    this.images.replaceChildren();
    this.more.hidden = true;
    this.found.className = "";
    this.found.textContent = "Reading the test set…";
    await this.page();
  }

  async page() {
    const { network } = this;
    const asked = ++this.asked;
    const fields = [...new FormData(this.form)].filter(([, value]) => value !== "");
    const offset = this.images.childElementCount;
    const query = new URLSearchParams([...fields, ["offset", offset], ["limit", PAGE]]);
    let found;
    try {
      found = await get(`/api/test/${network.id}?${query}`);
      this.failed = false;
    } catch (error) {
      this.failed = true;
      if (asked !== this.asked) return;
      this.found.className = "error";
      this.found.textContent = error.message;
      return;
    }
    if (asked !== this.asked) return; // the filters have changed meanwhile
    const [count, all] = [found.count, found.of].map((n) => n.toLocaleString("en"));
    const accuracy = (100 * found.accuracy).toFixed(2);
    this.found.textContent = `${count} of ${all} images. Accuracy on the whole set: ${accuracy} %.`;
    this.images.append(...found.images.map((row) => this.image(row)));
    this.more.hidden = this.images.childElementCount >= found.count;
  }

  image({ index, truth, guess, confidence }) {
    const { network } = this;
    const button = document.createElement("button");
    button.type = "button";
    button.className = truth === guess ? "right" : "wrong";
    const picture = document.createElement("img");
    picture.src = `/api/test/${network.id}/${index}.png`;
    picture.loading = "lazy";
    picture.alt = "";
    const words = element("span", `${network.classes[truth]} read as `);
    words.append(element("b", network.classes[guess]), element("br", ""), percent(confidence), element("br", ""), element("small", `image ${index}`));
    button.append(picture, words);
    button.title = `see the network read test image ${index}`;
    button.addEventListener("click", () => this.look(network.id, index, network.classes[truth]));
    return button;
  }
}
