// How one job looks: a card that follows its job, and folds once the advice is read.

import { STAGES } from "./job.js";
import { fill, language, say } from "./words.js";

const cardTemplate = document.getElementById("card");
const itemTemplate = document.getElementById("item");
let cards = 0;

export class Card {
  #job;
  #number;
  #preview = null; // object URL of the local photo
  #shown = null; // the result that the advice shows

  /** `takeAnother` is called when the advice asks for another photo. */
  constructor(job, number, { isOpen, takeAnother }) {
    this.#job = job;
    this.#number = number;
    this.takeAnother = takeAnother;
    this.element = cardTemplate.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.photo = find("img");
    this.title = find("h3");
    this.state = find(".state");
    this.fold = find(".fold");
    this.running = find(".running");
    this.bar = find("progress");
    this.stages = find(".stages");
    this.advice = find(".advice");
    this.note = find(".note");
    this.buttons = { retry: find(".retry"), cancel: find(".cancel"), remove: find(".remove") };

    cards += 1;
    this.title.id = `job-${cards}`;
    this.advice.id = `advice-${cards}`;
    this.element.setAttribute("aria-labelledby", this.title.id);
    this.fold.setAttribute("aria-controls", this.advice.id);
    this.fold.onclick = () => this.open(!this.isOpen);
    this.buttons.retry.onclick = () => job.retry();
    this.buttons.cancel.onclick = () => job.cancel();
    if (job.file) this.#showPhoto((this.#preview = URL.createObjectURL(job.file)));
    this.open(isOpen);
    this.translate();
  }

  get name() {
    const { result } = this.#job;
    if (!result) return `${say("photo")} ${this.#number}`;
    const others = result.items.length - 1;
    return others > 0 ? say("and_more", { name: result.waste_type, count: others }) : result.waste_type;
  }

  get isOpen() {
    return "open" in this.element.dataset;
  }

  open(isOpen) {
    this.element.toggleAttribute("data-open", isOpen);
    this.#showFold();
  }

  translate() {
    fill(this.element);
    this.stages.replaceChildren(...STAGES.map((stage) => made("li", say(`stage_${stage}`))));
    this.bar.setAttribute("aria-label", say("progress_of"));
    this.#shown = null;
    this.update();
  }

  update() {
    const job = this.#job;
    this.element.dataset.stage = job.stage;
    this.title.textContent = this.#heading();
    this.state.textContent = this.#sentence();
    this.running.hidden = job.hasEnded;
    this.bar.value = job.progress;
    const reached = STAGES.indexOf(job.stage);
    [...this.stages.children].forEach((step, index) => {
      step.className = index < reached ? "past" : index === reached ? "now" : "";
    });
    this.note.textContent = job.note;
    this.#showButtons();
    if (job.result && this.#shown !== job.result) this.#showResult(job.result);
    this.advice.hidden = !job.result || !this.isOpen;
    this.#showFold();
  }

  /** Give the browser back what the preview holds. */
  close() {
    if (this.#preview) URL.revokeObjectURL(this.#preview);
  }

  #heading() {
    const titles = { failed: "no_result", expired: "no_result", stuck: "no_result", refused: "refused", cancelled: "cancelled_title" };
    const key = this.#job.result?.sure === false ? "unsure" : titles[this.#job.stage];
    return key ? say(key) : this.name;
  }

  #sentence() {
    const job = this.#job;
    if (job.failure) return job.failure.detail;
    if (job.result?.sure) return job.result.items[0].bin;
    if (job.result) return say("perhaps", { names: job.result.items.map((item) => item.name).join(", ") });
    return job.message;
  }

  #showButtons() {
    const { retry, cancel, remove } = this.buttons;
    const had = document.activeElement;
    retry.hidden = !this.#job.canRetry;
    cancel.hidden = !this.#job.canCancel;
    remove.hidden = !this.#job.hasEnded;
    // The focus was on a button that is no longer there: keep it in the card.
    if (had?.hidden && this.element.contains(had)) this.element.focus({ preventScroll: true });
  }

  #showFold() {
    this.fold.hidden = !this.#job.result;
    this.fold.setAttribute("aria-expanded", String(this.isOpen));
    this.fold.setAttribute("aria-label", say(this.isOpen ? "close" : "open", { name: this.name }));
    this.advice.hidden = !this.#job.result || !this.isOpen;
  }

  #showPhoto(address) {
    this.photo.onerror = () => (this.photo.hidden = true);
    this.photo.onload = () => (this.photo.hidden = false);
    this.photo.src = address;
  }

  #showResult(result) {
    this.#shown = result;
    this.#exchangePhoto(result.image_url);
    this.photo.alt = say("photo_of", { name: result.waste_type });
    this.element.dataset.kind = result.items.length ? kindOf(result.items[0]) : "";
    this.element.classList.toggle("unsure", !result.sure);
    const parts = grouped(result.items).map((items) => advised(items, result));
    if (result.answer || this.#job.question) parts.unshift(answered(result.answer, this.#job.question));
    if (!result.sure) parts.unshift(this.#askedBack(result));
    const seconds = (result.timings_ms.total / 1000).toLocaleString(language(), { maximumSignificantDigits: 2 });
    parts.push(made("p", say("took", { seconds, model: result.model }), "took"));
    this.advice.replaceChildren(...parts);
  }

  /** From the local preview to the photo as the service keeps it, once that has loaded. */
  #exchangePhoto(address) {
    if (this.photo.src === address) return;
    const next = new Image();
    next.onload = () => {
      this.#showPhoto(address);
      this.close();
    };
    next.src = address;
  }

  #askedBack(result) {
    const box = made("div", "", "box unsure-box");
    const again = made("button", say("again"), "secondary");
    again.type = "button";
    again.onclick = this.takeAnother;
    const asked = [result.ask_back?.text, result.ask_back].find((text) => typeof text === "string") ?? say("unsure");
    box.append(icon("unsure"), made("p", asked, "", result.locale), again);
    return box;
  }
}

/** Things that go the same way are told once. */
function grouped(items) {
  const groups = new Map();
  for (const item of items) {
    const way = JSON.stringify([item.bin, item.steps, item.cautions, item.rule]);
    groups.set(way, [...(groups.get(way) ?? []), item]);
  }
  return [...groups.values()];
}

function advised(items, result) {
  const [item] = items;
  const section = itemTemplate.content.firstElementChild.cloneNode(true);
  const find = (selector) => section.querySelector(selector);
  fill(section);
  section.lang = result.locale;
  section.dataset.kind = kindOf(item);
  find("h4").textContent = items.map(({ name }) => name).join(", ");
  find("h4").hidden = result.sure && result.items.length === 1; // the card's own heading says it
  const percents = items.map(({ confidence }) => `${Math.round(confidence * 100)}%`).join(", ");
  find(".confidence").textContent = say("confidence", { percents });
  find("strong").textContent = item.bin;
  find(".steps").replaceChildren(...item.steps.map((step) => made("li", step)));
  find(".cautions ul").replaceChildren(...item.cautions.map((caution) => made("li", caution)));
  find(".cautions").hidden = item.cautions.length === 0;
  const { source, as_of: date } = item.rule;
  find(".source").textContent = say("source", { source }) + (date ? say("as_of", { date }) : "");
  for (const ours of [".confidence", "small", ".source"]) find(ours).lang = language();
  return section;
}

function answered(answer, question) {
  const box = made("div", "", "box");
  box.append(icon("speech"), made("strong", question || say("answer")), made("p", answer ?? say("unanswered")));
  return box;
}

const kindOf = (item) => (item.recyclable && item.material) || item.category;

function made(tag, text, name = "", lang = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  if (lang) element.lang = lang;
  return element;
}

function icon(id) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  drawing.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${id}`);
  drawing.append(use);
  return drawing;
}
