// A thing's name in, the things that are called so out: a field and a list, for fingers, keys and ears.

import { readAdvice } from "./api.js";
import { kindOf, made, mark } from "./advice.js";
import { explain, fill, language, say } from "./words.js";

const template = document.getElementById("finder");
const PAUSE_MS = 200; // between two letters

export class Finder {
  #onPick;
  #timer;
  #asking = null; // the answer that is waited for; an older one is not wanted any more

  /** `onPick` gets the thing that was chosen, with its advice. */
  constructor(onPick) {
    this.#onPick = onPick;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.field = this.element.querySelector("input");
    this.list = this.element.querySelector(".found");
    this.told = this.element.querySelector(".hint");
    this.field.oninput = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#find(), PAUSE_MS);
    };
    this.field.onkeydown = ({ key, isComposing }) => {
      if (key === "Enter" && !isComposing) this.list.querySelector("button")?.click(); // the best
    };
    fill(this.element);
  }

  clear() {
    this.field.value = "";
    this.#find();
  }

  translate() {
    fill(this.element);
    if (this.field.value) this.#find();
  }

  async #find() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const name = this.field.value.trim();
    if (!name) return this.#show([], "");
    const asking = (this.#asking = new AbortController());
    try {
      const { items } = await readAdvice({ name }, asking.signal);
      this.#show(items, items.length ? say("found", { count: items.length }) : say("found_none"));
    } catch (error) {
      if (!asking.signal.aborted) this.#show([], explain(error));
    }
  }

  #show(things, told) {
    this.list.replaceChildren(...things.map((thing) => this.#row(thing)));
    this.list.hidden = things.length === 0;
    this.told.textContent = told;
    this.told.classList.toggle("unseen", things.length > 0); // who sees the list can count it
  }

  #row(thing) {
    const row = document.createElement("li");
    const button = made("button", "", "", language());
    const text = document.createElement("span");
    text.append(made("b", thing.name), made("small", thing.bin));
    button.append(text);
    mark(button, kindOf(thing));
    button.onclick = () => this.#pick(thing);
    row.append(button);
    return row;
  }

  #pick(thing) {
    this.#asking?.abort();
    this.field.value = thing.name;
    this.#show([], "");
    this.#onPick(thing);
  }
}
