// Sorts the tables, and shows what the pointer is on: a text, and the same setting elsewhere.

/** Numbers before texts before blanks. */
function order(a, b) {
  const [x, y] = [a, b].map((text) => (text === "" ? NaN : Number(text)));
  if (!isNaN(x) && !isNaN(y)) return x - y;
  if (a === "" || b === "") return (a === "") - (b === "");
  return isNaN(x) - isNaN(y) || a.localeCompare(b);
}

function sort(head) {
  const body = head.closest("table").tBodies[0];
  const way = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.ariaSort = null;
  head.ariaSort = way > 0 ? "ascending" : "descending";
  const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].innerText.trim();
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === "" || y === "" ? order(x, y) : way * order(x, y);
  });
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => sort(button.closest("th")));

const tip = document.querySelector("#tip");

function point(event) {
  const on = event.target.closest("[data-tip]");
  tip.hidden = !on;
  if (on) {
    tip.textContent = on.dataset.tip;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
  }
  const place = event.target.closest("[data-setting]")?.dataset.setting;
  for (const each of document.querySelectorAll("[data-setting]"))
    each.classList.toggle("on", each.dataset.setting === place);
  document.body.classList.toggle("pointing", place !== undefined);
}

// MLflow shows the page in a frame without an origin; a notebook's frame has that of the notebook.
document.querySelector("#framed").hidden = window === top || origin !== "null";
// A tap is a mouseover too.
document.addEventListener("mouseover", point);
document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });
