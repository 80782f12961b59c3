// What the page says, in Korean or English. Stage messages and advice come from the service.

const KEPT = "growbin-language";
const LANGUAGES = ["ko", "en"];
const load = async (language) => (await import(`./words-${language}.js`)).WORDS;
let current = kept() ?? (navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en");
const loading = load(current);
// With its words only the page counts as loaded: who waits for that finds it ready.
document.head.append(Object.assign(document.createElement("script"), { type: "module", src: `/words-${current}.js` }));
let words = await loading;

export function language() {
  return current;
}

/** Rejected, and nothing changed, when the other one's words cannot be loaded. */
export async function switchLanguage() {
  const next = current === "ko" ? "en" : "ko";
  words = await load(next);
  current = next;
  try {
    localStorage.setItem(KEPT, current);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

/** `say("photo_of", {name: "can"})`: the sentence in the chosen language. */
export function say(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** As a person writes a title: models name things in lower case. Korean has none. */
export function capital(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** A place in line: 3rd, or in Korean the bare number. */
export function nth(number) {
  if (current === "ko") return number;
  return number + ({ one: "st", two: "nd", few: "rd" }[new Intl.PluralRules(current, { type: "ordinal" }).select(number)] ?? "th");
}

/** What went wrong and what to do: our words where we have them, else the service's `detail`. */
export function explain(error) {
  return words[error.code] ?? error.detail ?? words.internal;
}

/** Fill every element below `root` that names its words. */
export function fill(root) {
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of root.querySelectorAll("[data-say-placeholder]")) {
    element.placeholder = say(element.dataset.sayPlaceholder);
  }
}

function kept() {
  try {
    const choice = localStorage.getItem(KEPT);
    return LANGUAGES.includes(choice) ? choice : null;
  } catch {
    return null;
  }
}
