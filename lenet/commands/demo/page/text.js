// Words and numbers.

/** An element of the page with a text in it. */
export function element(tag, words, className = "") {
  const made = document.createElement(tag);
  made.textContent = words;
  made.className = className;
  return made;
}

export const percent = (part) => `${(100 * part).toFixed(1)} %`;

export const number = (v) => (Object.is(v, -0) ? 0 : v).toFixed(3).replace("-", "−");
