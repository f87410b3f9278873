// Light or dark: as the system is set, until the user clicks the button.

const KEY = "lenet-theme";
const CHOICES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];
let choice = stored();

export const isDark = () => (choice === "auto" ? system.matches : choice === "dark");

/** Calls `listener` whenever colours change. */
export function onTheme(listener) {
  listeners.push(listener);
}

export function themeButton(button) {
  const apply = () => {
    document.documentElement.style.colorScheme = choice === "auto" ? "light dark" : choice;
    button.textContent = `Theme: ${choice}`;
    for (const listener of listeners) listener();
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // this browser stores nothing
    }
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function stored() {
  try {
    const found = localStorage.getItem(KEY);
    return CHOICES.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}
