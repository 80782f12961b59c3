// The page: photos in by button, drop or paste; their cards, newest first.

import { advised } from "./advice.js";
import { listJobs } from "./api.js";
import { Card } from "./card.js";
import { Finder } from "./finder.js";
import { Job } from "./job.js";
import { forgetOthers } from "./opinion.js";
import { explain, fill, language, say, switchLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const cards = new Map(); // job -> card
let photosSoFar = 0;
let olderCursor = null;

// --- photos in ---

function addPhotos(files) {
  if (files.length === 0) return;
  for (const card of cards.values()) card.open(false);
  closeThing();
  finder.clear();
  const question = $("question").value.trim();
  const jobs = files.map((file) => Job.of(file, question));
  for (const job of jobs) show(job, { isOpen: files.length === 1, isNewest: true });
  $("question").value = "";
  bringIntoView($("jobs"));
  hasMoved = false;
  for (const job of jobs) job.send();
}

function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top >= 0 && top < innerHeight / 3) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: isCalm ? "auto" : "smooth" });
}

/** At once, since the answer is there now; gently where all that has to be read first is seen already. */
function bringAnswer(card) {
  const isSeen = card.element.getBoundingClientRect().top >= 0 && card.vital?.getBoundingClientRect().bottom <= innerHeight;
  if (isSeen) bringIntoView(card.element);
  else card.element.scrollIntoView({ block: "start", behavior: "instant" });
}

let hasMoved = false; // the person has scrolled or typed since the last photo was sent
for (const gesture of ["wheel", "touchmove", "keydown"]) {
  addEventListener(gesture, () => (hasMoved = true), { passive: true });
}

/** Who has gone elsewhere on purpose is left there. */
function isWatched(card) {
  const { top, bottom } = card.element.getBoundingClientRect();
  return card.isOpen && (!hasMoved || (top < innerHeight / 2 && bottom > innerHeight / 2));
}

function takeAnother() {
  const isPhone = matchMedia("(pointer: coarse)").matches;
  $(isPhone ? "camera-file" : "picture-files").click();
}

for (const [button, input] of [["capture", "camera-file"], ["choose", "picture-files"]]) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => {
    addPhotos([...$(input).files]);
    $(input).value = ""; // so that the same photo may be chosen again
  };
}

let dragDepth = 0; // each element that is crossed enters and leaves
const markDrop = (change) => {
  dragDepth = Math.max(0, dragDepth + change);
  $("drop").classList.toggle("over", dragDepth > 0);
};
addEventListener("dragenter", () => markDrop(1));
addEventListener("dragleave", () => markDrop(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  markDrop(-dragDepth);
  addPhotos([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) event.preventDefault();
  addPhotos(files);
});

// --- without a photo ---

const finder = new Finder(showThing);
$("find").append(finder.element);

function showThing(found) {
  $("thing-name").textContent = found.name;
  $("thing-name").lang = language();
  $("thing-advice").replaceChildren(advised(found, language()));
  $("thing").hidden = false;
  $("thing").scrollIntoView({ block: "nearest", behavior: "instant" });
  $("thing-name").focus({ preventScroll: true });
}

function closeThing() {
  $("thing").hidden = true;
}

$("thing-close").onclick = () => {
  closeThing();
  finder.clear();
  finder.field.focus();
};

// --- their cards ---

function show(job, { isOpen = false, isNewest = false } = {}) {
  photosSoFar += 1;
  const card = new Card(job, photosSoFar, { isOpen, takeAnother, onChoice });
  cards.set(job, card);
  if (isNewest) $("jobs").prepend(card.element);
  else $("jobs").append(card.element);
  card.buttons.remove.onclick = () => remove(job, card);
  let told = job.id ? job.stage : "";
  job.onChange = () => {
    const isNews = job.stage !== told;
    const isAnswer = isNews && job.stage === "done";
    const isAwaited = isAnswer && isWatched(card);
    told = job.stage;
    card.update();
    if (isAnswer) card.arrive();
    if (isAwaited) bringAnswer(card); // only now that it has its size
    if (isNews) announce(job, card);
  };
  function onChoice() {
    bringAnswer(card);
    $("live").textContent = card.spoken;
  }
  $("how").hidden = true;
}

/** For who listens instead of looks: every stage of a single photo, of many only the ends. */
function announce(job, card) {
  const running = [...cards.keys()].filter((other) => !other.hasEnded).length;
  if (!job.hasEnded && running > 1) return;
  $("live").textContent = card.spoken;
}

async function remove(job, card) {
  card.buttons.remove.disabled = true;
  const isGone = await job.remove();
  card.buttons.remove.disabled = false;
  if (!isGone) return;
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling ?? $("photos");
  $("live").textContent = say("removed", { name: card.name });
  card.forget();
  card.element.remove();
  cards.delete(job);
  $("how").hidden = cards.size > 0;
  next.focus();
}

/** What this session has sent before; what is unfinished is followed again. */
async function showEarlier() {
  try {
    const page = await listJobs(olderCursor);
    const known = new Set([...cards.keys()].map((job) => job.id));
    const jobs = page.jobs.filter((view) => !known.has(view.job_id)).map(Job.known);
    for (const job of jobs) show(job, { isOpen: !job.hasEnded && jobs.length === 1 });
    olderCursor = page.next_cursor;
    $("older").hidden = !olderCursor;
    forgetOthers(new Set([...cards.keys()].map((job) => job.id)), !olderCursor);
    for (const job of jobs.filter((job) => !job.hasEnded)) job.resume();
  } catch (error) {
    tell(explain(error));
  }
}

$("older").onclick = showEarlier;

// --- language, connection ---

function translate() {
  document.documentElement.lang = language();
  fill(document);
  closeThing();
  finder.translate();
  $("language").textContent = say("switch_language");
  $("language").lang = language() === "ko" ? "en" : "ko";
  for (const card of cards.values()) card.translate();
  tellConnection();
}

function tell(sentence) {
  $("offline").textContent = sentence;
  $("offline").hidden = !sentence;
}

const tellConnection = () => tell(navigator.onLine ? "" : say("offline"));

$("language").onclick = () => {
  switchLanguage();
  translate();
};
addEventListener("offline", tellConnection);
addEventListener("online", tellConnection);

translate();
showEarlier();
