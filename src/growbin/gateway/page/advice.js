// The advice as it is shown: the bin in its colour, the steps, what to mind, and who says so.

import { readAdvice } from "./api.js";
import { icon, KINDS, REASONS, SIGNS } from "./icons.js";
import { capital, fill, language, say } from "./words.js";

const template = document.getElementById("item");
const LEAST = 0.1; // what is less likely than that is not worth a word
const EMBEDDED = "growbin-embedded";

/** What a result says, whichever version wrote it. `items` are those that have a bin, best first. */
export function read(result) {
  const likely = result.items.filter(({ confidence }) => confidence >= LEAST);
  const items = likely.filter(({ category }) => category !== "unclassified");
  const asked = result.ask_back;
  return {
    items,
    locale: result.locale,
    certainty: items.length === 0 ? "unsure" : (result.certainty ?? (result.sure ? "sure" : "unsure")),
    nothing: likely.length ? capital(likely[0].name) : say("nothing_known"), // its name, if nothing has a bin
    doubt: typeof asked === "string" ? { reason: "unknown", text: asked, choices: [] } : asked,
    isEmbedded: result.model === EMBEDDED,
  };
}

/** The same result in the language of the page: what the rules say of what was seen. What the model wrote stays. */
export async function inOurLanguage(result) {
  const locale = language();
  const items = await Promise.all(result.items.map(async (item) => {
    const { name, category, material, condition } = item;
    if (category === "unclassified") return item;
    const { items: [told] } = await readAdvice({ category, material, condition });
    return { ...item, ...told, name };
  }));
  const asked = result.ask_back;
  const choices = asked?.choices?.map((choice) => ({ ...choice, label: say(choice.material ?? choice.category) }));
  return { ...result, locale, items, ask_back: choices ? { ...asked, choices } : asked };
}

/** Things that go the same way are told once. */
export function grouped(items) {
  const groups = new Map();
  for (const item of items) {
    const way = JSON.stringify([item.bin, item.steps, item.cautions, item.rule]);
    groups.set(way, [...(groups.get(way) ?? []), item]);
  }
  return [...groups.values()];
}

/** The colour and the drawing of where it goes: a material that is collected, else a category. */
export function kindOf({ category, material, recyclable, rule }) {
  if (recyclable) return material ?? category;
  const [way] = rule.id.split("."); // soiled paper was found as recyclable, and is general waste
  return way in KINDS ? way : category;
}

export function advised(item, locale, heading = "") {
  const section = template.content.firstElementChild.cloneNode(true);
  const find = (selector) => section.querySelector(selector);
  fill(section);
  section.lang = locale;
  find("h4").textContent = heading;
  find("h4").hidden = !heading;
  mark(find(".bin"), kindOf(item));
  find("strong").textContent = item.bin;
  find(".steps").replaceChildren(...item.steps.map((step) => made("li", step)));
  find(".cautions ul").replaceChildren(...item.cautions.map((caution) => made("li", caution)));
  find(".cautions").hidden = item.cautions.length === 0;
  find(".source").textContent = sourceOf(item);
  for (const ours of ["small", ".source"]) find(ours).lang = language();
  return section;
}

function sourceOf({ rule: { source, as_of, place }, days, contact }) {
  const date = as_of && new Date(`${as_of}T00:00`).toLocaleDateString(language(), { dateStyle: "long" });
  const told = [
    place && say("place", { place }),
    days && say("days", { days }),
    contact && say("contact", { contact }),
    say("source", { source }) + (date ? say("as_of", { date }) : ""),
  ];
  return told.filter(Boolean).join(" · ");
}

export function certaintyWord(certainty) {
  const word = made("p", say(certainty), `certainty ${certainty}`, language());
  word.prepend(icon(certainty === "sure" ? SIGNS.check : REASONS.unknown));
  return word;
}

/** The colour of its kind, and the drawing before it. */
export function mark(element, kind) {
  const drawn = made("span", "", "mark");
  drawn.append(icon(KINDS[kind]));
  element.dataset.kind = kind;
  element.prepend(drawn);
}

export function made(tag, text, name = "", lang = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  if (lang) element.lang = lang;
  if (tag === "button") element.type = "button";
  return element;
}
