// What it may be instead: the service's own guesses, every kind there is, and the finder.

import { made, mark } from "./advice.js";
import { Finder } from "./finder.js";
import { fill, say } from "./words.js";

const template = document.getElementById("picker");
let pickers = 0;

const MATERIALS = ["paper", "carton", "clear_pet", "plastics", "film", "foam", "glass", "metals", "textiles", "batteries", "lamps", "e_waste"];
const CATEGORIES = ["general", "non_combustible", "food", "bulky", "construction", "hazardous"];
const KINDS = [
  ...MATERIALS.map((material) => ({ category: "recyclable", material })),
  ...CATEGORIES.map((category) => ({ category, material: null })),
];

export class Picker {
  #onPick;

  /** `onPick` gets {name, category, material}, the name only where it was found by name. What it throws is told. */
  constructor(choices, onPick) {
    this.#onPick = onPick;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.all = this.element.querySelector(".all");
    this.chips = this.element.querySelector(".chips");
    this.ways = this.element.querySelector(".ways");
    this.told = this.element.querySelector(":scope > .hint");
    fill(this.element);
    pickers += 1;
    this.all.id = `kinds-${pickers}`;
    this.chips.append(...choices.map((choice) => this.#button(choice.label, choice)));
    this.chips.hidden = choices.length === 0;
    const kinds = KINDS.map((kind) => this.#button(say(kind.material ?? kind.category), kind));
    this.element.querySelector(".kinds").append(...kinds);
    const finder = new Finder(({ name, category, material }) => this.#pick({ name, category, material }));
    this.element.querySelector(".by-name").append(finder.element);
  }

  /** The button that opens and closes the kinds and the finder. */
  opener(text) {
    const button = made("button", text, "secondary");
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", this.all.id);
    button.onclick = () => {
      this.all.hidden = !this.all.hidden;
      button.setAttribute("aria-expanded", String(!this.all.hidden));
    };
    return button;
  }

  #button(label, { category, material }) {
    const button = made("button", label, "secondary");
    mark(button, (category === "recyclable" && material) || category);
    button.onclick = () => this.#pick({ category, material });
    return button;
  }

  async #pick(choice) {
    this.told.textContent = "";
    this.element.setAttribute("aria-busy", "true");
    this.told.textContent = (await this.#onPick(choice)) ?? "";
    this.element.removeAttribute("aria-busy");
  }
}
