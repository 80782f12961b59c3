// The page: photos in by button, drop or paste; their cards, newest first.

import { advised } from "./advice.js";
import { listJobs } from "./api.js";
import { Card } from "./card.js";
import { Finder } from "./finder.js";
import { Job } from "./job.js";
import { forget, keptPhotos } from "./kept.js";
import { forgetOthers } from "./opinion.js";
import { explain, fill, language, say, switchLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const cards = new Map(); // job -> card
let lastNumber = 0;
let olderCursor = null;

// --- photos in ---

async function addPhotos(files) {
  if (files.length === 0) return;
  await numbered;
  for (const card of cards.values()) card.open(false);
  closeThing();
  finder.clear();
  const question = $("question").value.trim();
  const batch = Date.now();
  const jobs = files.map((file) => Job.of(file, question, ++lastNumber, batch));
  for (const job of jobs) show(job, files.length === 1);
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

/** The newest batch first, and in it the photos as they were chosen. */
const isBefore = (one, other) => one.batch > other.batch || (one.batch === other.batch && one.number < other.number);

function show(job, isOpen = false) {
  const card = new Card(job, { isOpen, takeAnother, onChoice });
  const [next] = [...cards].filter(([other]) => isBefore(job, other)).sort(([one], [other]) => (isBefore(one, other) ? -1 : 1));
  cards.set(job, card);
  $("jobs").insertBefore(card.element, next?.[1].element ?? null);
  card.buttons.remove.onclick = () => remove(job, card);
  let told = job.id ? job.stage : "";
  let { id } = job;
  job.onChange = () => {
    if (job.id !== id) dropTwins(job);
    ({ id } = job);
    const isNews = job.stage !== told;
    const isAnswer = isNews && job.stage === "done";
    const isAwaited = isAnswer && isWatched(card);
    told = job.stage;
    card.update();
    if (isAnswer) card.arrive();
    if (isAwaited) bringAnswer(card); // only now that it has its size
    if (isNews) announce(job, card);
    tellBatch();
  };
  function onChoice() {
    bringAnswer(card);
    $("live").textContent = card.spoken;
  }
  $("how").hidden = true;
}

/** A reload may fall between a ticket and its note here: then the job is listed, and sent once more as well. */
function dropTwins(job) {
  for (const [other, card] of cards) {
    if (!job.id || other === job || other.id !== job.id) continue;
    other.leave();
    card.element.remove();
    cards.delete(other);
  }
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
  tellBatch();
  $("how").hidden = cards.size > 0;
  next.focus();
}

// --- several at once ---

const jobsInBatch = () => {
  const running = new Set([...cards.keys()].filter((job) => !job.hasEnded).map((job) => job.batch));
  return [...cards.keys()].filter((job) => running.has(job.batch));
};

function tellBatch() {
  const jobs = jobsInBatch();
  const words = say("batch", { done: jobs.filter((job) => job.hasEnded).length, count: jobs.length });
  $("batch").hidden = jobs.length < 2;
  if ($("batch-told").textContent !== words) $("batch-told").textContent = words;
}

$("cancel-all").onclick = () => {
  for (const job of jobsInBatch().reverse()) if (job.canCancel) job.cancel();
};

setInterval(() => {
  for (const [job, card] of cards) if (!job.hasEnded) card.tick();
}, 1000);

// What this browser could not keep would be lost.
addEventListener("beforeunload", (event) => {
  if ([...cards.keys()].some((job) => !job.hasEnded && !job.acceptedAt && job.file && !job.isKept)) event.preventDefault();
});

const kept = keptPhotos();
const numbered = kept.then((photos) => (lastNumber = Math.max(0, ...photos.map(({ number }) => number))));

/** What this session has sent before, or would have; what is unfinished goes on. */
async function showEarlier() {
  const photos = new Map((await kept).map((photo) => [photo.id ?? photo.name, photo]));
  const shown = new Set([...cards.keys()].map((job) => job.id));
  const begin = (jobs) => {
    for (const job of jobs) show(job, !job.hasEnded && jobs.length === 1);
    for (const job of jobs.filter((job) => !job.hasEnded)) job.resume();
    tellBatch();
  };
  const unsent = [...photos.values()].filter(({ id }) => !id);
  if (!olderCursor) begin(unsent.map((photo) => Job.kept(photo)));
  try {
    const page = await listJobs(olderCursor);
    // A ticket that nothing is known of here is that of an unsent photo, which comes back to it.
    const isOurs = (view) => photos.has(view.job_id) || view.stage !== "awaiting_upload" || !unsent.length;
    const views = page.jobs.filter((view) => !shown.has(view.job_id) && isOurs(view));
    begin(views.map((view) => (photos.has(view.job_id) ? Job.kept(photos.get(view.job_id), view) : Job.known(view))));
    olderCursor = page.next_cursor;
    $("older").hidden = !olderCursor;
    const ids = new Set([...cards.keys()].map((job) => job.id));
    forgetOthers(ids, !olderCursor);
    for (const { id, name } of photos.values()) if (id && !olderCursor && !ids.has(id)) forget(name);
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
  tellBatch();
  tellConnection();
}

function tell(sentence) {
  $("offline").textContent = sentence;
  $("offline").hidden = !sentence;
}

const tellConnection = () => tell(navigator.onLine ? "" : say("offline"));

$("language").onclick = () => switchLanguage().then(translate, () => tell(say("unreachable")));
addEventListener("offline", tellConnection);
addEventListener("online", tellConnection);

translate();
showEarlier();
