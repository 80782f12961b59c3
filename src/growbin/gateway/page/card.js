// How one job looks: a card that follows its job, then shows the answer, and folds once that is read.

import { advised, certaintyWord, grouped, inOurLanguage, kindOf, made, read } from "./advice.js";
import { readAdvice } from "./api.js";
import { icon, REASONS, SIGNS } from "./icons.js";
import { STAGES } from "./job.js";
import { Opinion } from "./opinion.js";
import { Picker } from "./picker.js";
import { capital, explain, fill, language, nth, say } from "./words.js";

const template = document.getElementById("card");
const USUAL_MS = 15_000;
const PROBABLE = 0.5; // what is beside the best thing has no word of its own: below this it is a guess
let cards = 0;

export class Card {
  #job;
  #preview = null; // object URL of the local photo
  #shown = null; // the result that the advice shows
  #answer = null; // what it says,
  #opinion = null; // what the person says of it,
  #chosen = null; // and the advice for what they say it is
  #told = new Map(); // language -> the result in it, where it is not the one that it was written in

  /** `takeAnother` is called when the advice asks for another photo, `onChoice` when the person has chosen. */
  constructor(job, { isOpen, takeAnother, onChoice }) {
    this.#job = job;
    Object.assign(this, { takeAnother, onChoice });
    this.element = template.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    for (const part of ["certainty", "state", "clock", "fold", "running", "stages", "advice", "note"]) this[part] = find(`.${part}`);
    this.photo = find("img");
    this.title = find("h3");
    this.bar = find("progress");
    this.buttons = { retry: find(".retry"), cancel: find(".cancel"), share: find(".share"), remove: find(".remove") };

    cards += 1;
    this.title.id = `job-${cards}`;
    this.advice.id = `advice-${cards}`;
    this.element.setAttribute("aria-labelledby", this.title.id);
    this.fold.setAttribute("aria-controls", this.advice.id);
    this.fold.onclick = () => this.open(!this.isOpen);
    this.buttons.retry.onclick = () => job.retry();
    this.buttons.cancel.onclick = () => job.cancel();
    this.buttons.share.onclick = () => this.#share();
    if (job.file) this.#showPhoto((this.#preview = URL.createObjectURL(job.file)));
    this.open(isOpen);
    this.translate();
  }

  get name() {
    if (this.#chosen) return this.#chosen.name;
    if (!this.#answer) return `${say("photo")} ${this.#job.number ?? ""}`.trim();
    const { items, locale, nothing } = this.#answer;
    if (items.length === 0) return nothing;
    const name = capital(items[0].name);
    return items.length > 1 ? say("and_more", { name, count: items.length - 1 }) : name;
  }

  /** What is told to who listens instead of looks. */
  get spoken() {
    const title = this.#chosen ? say("chosen", { name: this.name }) : this.title.textContent;
    const word = this.certainty.hidden ? "" : `${this.certainty.textContent}. `;
    return `${title}. ${word}${this.state.textContent}`;
  }

  get isOpen() {
    return "open" in this.element.dataset;
  }

  /** What has to be seen at once: from the card's top to the last step, or to what is asked back. */
  get vital() {
    return this.advice.querySelector(".steps, .box");
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
    const result = this.#told.get(language()) ?? job.result;
    if (!job.result) this.#told.clear();
    if (job.result && this.#shown !== result) this.#take(result);
    if (!job.result) this.#answer = this.#chosen = this.#shown = null;
    this.element.dataset.stage = job.stage;
    this.title.textContent = this.#heading();
    this.state.textContent = this.#sentence();
    this.certainty.hidden = !this.#answer?.items.length || Boolean(this.#chosen);
    this.running.hidden = job.hasEnded;
    this.bar.value = job.progress;
    const reached = STAGES.indexOf(job.stage);
    [...this.stages.children].forEach((step, index) => {
      step.className = index < reached ? "past" : index === reached ? "now" : "";
    });
    this.tick();
    const note = job.note || (job.hasEnded ? "" : job.notice || (this.#isSlow ? say("slow") : ""));
    if (this.note.textContent !== note) this.note.textContent = note; // or it would be read aloud again
    this.#showButtons();
    this.#showFold();
  }

  /** Another second has passed. */
  tick() {
    const { hasEnded, since } = this.#job;
    this.clock.hidden = hasEnded;
    if (hasEnded) return;
    if (this.#job.stage === "queued") this.state.textContent = this.#sentence(); // the wait grows shorter
    this.clock.textContent = say("seconds", { seconds: Math.max(0, Math.floor((Date.now() - since) / 1000)) });
    if (this.#isSlow && !this.note.textContent) this.note.textContent = say("slow");
  }

  get #isSlow() {
    return Date.now() - (this.#job.acceptedAt ?? Date.now()) > USUAL_MS;
  }

  /** The moment that people wait for: the bin springs up. */
  arrive() {
    this.element.classList.add("arrived");
    this.advice.addEventListener("animationend", () => this.element.classList.remove("arrived"), { once: true });
  }

  /** Give the browser back what the preview holds. */
  close() {
    if (this.#preview) URL.revokeObjectURL(this.#preview);
  }

  /** The job is deleted: so is what was said of it. */
  forget() {
    this.close();
    this.#opinion?.forget();
  }

  #heading() {
    const titles = { failed: "no_result", expired: "no_result", stuck: "no_result", refused: "refused", cancelled: "cancelled_title" };
    const key = titles[this.#job.stage];
    if (key) return say(key);
    const { items, certainty } = this.#answer ?? {};
    if (this.#chosen || certainty !== "unsure" || items.length === 0) return this.name;
    return say("perhaps", { names: items.map(({ name }) => capital(name)).join(", ") });
  }

  #sentence() {
    const { failure, message } = this.#job;
    if (failure) return failure.detail + opensAgain(failure.opens_at);
    if (this.#chosen) return this.#chosen.bin;
    if (!this.#answer) return this.#inLine(message);
    const { items, certainty, doubt } = this.#answer;
    return certainty === "unsure" ? (doubt?.text ?? say("nothing_more")) : items[0].bin;
  }

  /** The service's words, with the place in line or the attempt where there is one to tell. */
  #inLine(message) {
    const { position, wait_seconds: wait, attempt, max_attempts: most, toldAt } = this.#job.place;
    if (this.#job.hasEnded) return message;
    if (attempt > 1) return `${say(most ? "again_of" : "again_nth", { attempt, most })} ${message}`;
    if (!(position > 1) || Date.now() - toldAt < 1000) return message; // it may be its turn at once
    const seconds = wait - Math.floor((Date.now() - toldAt) / 1000);
    return `${message} ${say(seconds > 0 ? "in_line_about" : "in_line_at", { place: nth(position), seconds })}`;
  }

  async #share() {
    const item = this.#chosen ?? this.#answer.items[0];
    try {
      const { share } = await import("./share.js"); // few need it
      const isCopied = await share(item, getComputedStyle(this.element).getPropertyValue("--kind"));
      if (isCopied) this.note.textContent = say("copied");
    } catch (error) {
      this.note.textContent = say("internal");
    }
  }

  #showButtons() {
    const { retry, cancel, share, remove } = this.buttons;
    const had = document.activeElement;
    retry.hidden = !this.#job.canRetry;
    cancel.hidden = !this.#job.canCancel;
    share.hidden = !(navigator.share || navigator.clipboard) || !this.#answer?.items.length;
    remove.hidden = !this.#job.hasEnded;
    // The focus was on a button that is no longer there: keep it in the card.
    if (had?.hidden && this.element.contains(had)) this.element.focus({ preventScroll: true });
  }

  #showFold() {
    this.fold.hidden = !this.#job.result;
    this.fold.setAttribute("aria-expanded", String(this.isOpen));
    this.fold.setAttribute("aria-label", say(this.isOpen ? "close" : "open", { name: this.name }));
    this.advice.hidden = !this.#job.result || !this.isOpen;
    this.element.classList.toggle("large", this.isOpen && !this.#job.hasEnded);
  }

  // --- the photo ---

  #showPhoto(address) {
    this.photo.onerror = () => (this.photo.hidden = true);
    this.photo.onload = () => (this.photo.hidden = false);
    this.photo.src = address;
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

  // --- the answer ---

  #take(result) {
    this.#shown = result;
    this.#answer = read(result);
    this.#exchangePhoto(result.image_url);
    if (result.locale !== language()) this.#retell(result);
    if (this.#opinion?.jobId !== this.#job.id) this.#opinion = new Opinion(this.#job.id);
    this.#showAnswer();
    const { choice } = this.#opinion;
    if (choice) this.#showChoice(choice).catch((error) => (this.note.textContent = explain(error)));
  }

  /** The advice is made by rule, so it can be had in the other language as well. */
  async #retell(result) {
    const told = await inOurLanguage(result).catch(() => null);
    if (!told || this.#job.result !== result) return;
    this.#told.set(told.locale, told);
    this.update();
  }

  #showAnswer() {
    const { question } = this.#job;
    const result = this.#shown;
    const { items, certainty, isEmbedded } = this.#answer;
    const isUnsure = certainty === "unsure" && !this.#chosen;
    const main = this.#chosen ?? items[0];
    this.element.dataset.kind = main ? kindOf(main) : "";
    this.element.classList.toggle("unsure", isUnsure);
    this.element.classList.toggle("nothing", !main);
    this.photo.alt = say("photo_of", { name: this.name });
    this.certainty.replaceWith((this.certainty = certaintyWord(certainty)));

    const parts = this.#chosen ? [this.#chosenLine(), advised(this.#chosen, language())] : this.#sections();
    if (isUnsure) parts.unshift(this.#askedBack());
    if (result.answer || question) parts.push(answered(result.answer, question));
    if (isEmbedded && !this.#chosen) parts.push(made("p", say("embedded"), "hint"));
    if (items.length && !this.#chosen) parts.push(this.#verdict(isUnsure));
    const seconds = Math.round(result.timings_ms.total / 1000);
    parts.push(made("p", say(seconds ? "took" : "took_no_time", { seconds, model: result.model }), "took"));
    this.advice.replaceChildren(...parts);
  }

  #sections() {
    const { items, locale, certainty } = this.#answer;
    return grouped(items).map((group) => {
      const [item] = group;
      const names = group.map(({ name }) => capital(name)).join(", ");
      if (items.length === 1) return advised(item, locale, certainty === "unsure" ? say("if_so") : "");
      return advised(item, locale, item.confidence < PROBABLE ? say("perhaps", { names }) : names);
    });
  }

  /** Why it is not sure, what would help, and what it may be instead. */
  #askedBack() {
    const { doubt, locale } = this.#answer;
    const box = made("div", "", "box doubt");
    const picker = this.#picker();
    const again = made("button", say("again"), "secondary");
    again.onclick = this.takeAnother;
    picker.ways.append(picker.opener(say(doubt?.choices.length ? "other" : "pick")), again);
    box.append(icon(REASONS[doubt?.reason] ?? REASONS.unknown), made("p", doubt?.text ?? say("nothing_more"), "", locale), picker.element);
    return box;
  }

  /** Right or not, under an answer that is believed; under a guess it may only be said to be right. */
  #verdict(isUnsure) {
    const right = made("button", say("right"), "secondary");
    const thanks = made("p", say("thanks"), "hint");
    thanks.tabIndex = -1;
    thanks.hidden = !this.#opinion.isRight;
    right.hidden = this.#opinion.isTold;
    right.prepend(icon(SIGNS.check));
    right.onclick = () => {
      this.#opinion.confirm();
      [right.hidden, thanks.hidden] = [true, false];
      thanks.focus({ preventScroll: true });
    };
    const ways = made("div", "", "ways");
    ways.append(thanks, right);
    if (isUnsure) return ways;
    const { doubt, locale } = this.#answer;
    const picker = this.#picker();
    ways.append(picker.opener(say("not_this")));
    picker.ways.replaceWith(ways);
    picker.all.prepend(picker.chips); // it is believed: other guesses only for who asks
    if (doubt) picker.all.prepend(made("p", doubt.text, "hint", locale));
    return picker.element;
  }

  // --- the person knows better ---

  #picker() {
    return new Picker(this.#answer.doubt?.choices ?? [], async (choice) => {
      try {
        await this.#showChoice(choice);
      } catch (error) {
        return explain(error);
      }
      this.#opinion.choose(choice);
      this.element.focus({ preventScroll: true });
      this.arrive();
      this.onChoice();
    });
  }

  async #showChoice({ name, category, material }) {
    const result = this.#shown;
    const { items } = await readAdvice(name ? { name } : { category, material });
    if (!items.length || this.#shown !== result) return;
    this.#chosen = items[0];
    this.#showAnswer();
    this.update();
  }

  #chosenLine() {
    const line = made("div", "", "chosen");
    const back = made("button", say("take_back"), "quiet");
    back.onclick = () => {
      this.#opinion.takeBack();
      this.#chosen = null;
      this.#showAnswer();
      this.update();
      this.element.focus({ preventScroll: true });
    };
    line.append(icon(SIGNS.person), made("p", say("chosen", { name: this.name })), back);
    return line;
  }
}

/** When a spent budget has room, in the person's own time and never too early. */
function opensAgain(moment) {
  const at = new Date(Math.ceil(Date.parse(moment) / 60_000) * 60_000);
  if (!(at > Date.now())) return "";
  const dateStyle = at.toDateString() === new Date().toDateString() ? undefined : "medium";
  return ` ${say("opens", { time: at.toLocaleString(language(), { dateStyle, timeStyle: "short" }) })}`;
}

function answered(answer, question) {
  const box = made("div", "", "box");
  box.append(icon(SIGNS.speech), made("strong", question || say("answer")), made("p", answer ?? say("unanswered")));
  return box;
}
