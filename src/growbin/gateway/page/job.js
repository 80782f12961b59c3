// One photo's job: sent, followed to its end, cancelled, deleted. Knows nothing of how it is shown.

import * as api from "./api.js";
import { forget, keep } from "./kept.js";
import { prepare, Refused } from "./photo.js";
import { explain, language, say } from "./words.js";

export const STAGES = ["awaiting_upload", "queued", "fetching", "analysing", "advising"];
const ENDS = ["done", "failed", "cancelled", "expired"];

const UPLOADS_AT_ONCE = 3;
const STREAMS_AT_ONCE = 3; // of the session's 4, and of the 6 connections that HTTP/1.1 gives a page
const POLL_MS = 2000;
const ASK_PAUSE_MS = 120; // a session may read 20 times a second: the most is left for what the person does
const STREAM_AGAIN_MS = 15_000; // after a stream was refused
const SILENCE_MS = 4000; // a reconnect that takes longer is told

/** Stages are the service's, and before them `preparing`; `stuck` is an error that may be tried again,
 * `refused` one that may not. `onChange` is called after each change. */
export class Job {
  id = null;
  stage = "preparing";
  progress = 0;
  message = "";
  updatedAt = "";
  result = null;
  failure = null;
  imageUrl = null;
  note = "";
  notice = ""; // why it takes longer
  place = {}; // in line, and which attempt it is, as the last event tells
  isKept = false; // a reload would lose nothing
  since = Date.now(); // when it was chosen,
  acceptedAt = null; // and when the service had it
  onChange = () => {};

  #key = newKey();
  #keptAs = this.#key;
  #sending = null;
  #photo = null;
  #isCancelling = false;

  /** A file that was chosen now; of all that were chosen at once `batch` is the time, */
  static of(file, question, number, batch) {
    const job = new Job();
    Object.assign(job, { file, question, number, batch, since: batch, locale: language(), message: say("in_line") });
    job.#keep();
    return job;
  }

  /** or before a reload; `view` is what the service tells of it, if it does, */
  static kept({ name, key, ...photo }, view) {
    const job = new Job();
    Object.assign(job, photo, { isKept: true, since: photo.batch, message: say("in_line") });
    job.#key = key;
    job.#keptAs = name;
    if (view) job.take(view);
    return job;
  }

  /** or a job of this session that only the service knows. */
  static known(view) {
    const job = new Job();
    job.id = view.job_id;
    job.batch = job.since = Date.parse(view.updated_at);
    job.take(view);
    return job;
  }

  get hasEnded() {
    return ENDS.includes(this.stage) || this.stage === "stuck" || this.stage === "refused";
  }

  get canRetry() {
    return Boolean(this.file) && ["stuck", "failed", "expired", "cancelled"].includes(this.stage);
  }

  get canCancel() {
    return !this.hasEnded && !this.#isCancelling;
  }

  /** A snapshot or event of the service. Late ones are dropped; after a `reset` nothing is late. */
  take(view, isReset = false) {
    if (!isReset && (ENDS.includes(this.stage) || view.updated_at < this.updatedAt)) return;
    if (view.stage === "awaiting_upload" && this.file) return; // of our own upload we know more
    this.imageUrl = view.image_url ?? view.result?.image_url ?? this.imageUrl;
    const { stage, message, updated_at: updatedAt, result = null, failure = null } = view;
    const { position, wait_seconds, attempt, max_attempts } = view;
    const progress = isReset ? view.progress : Math.max(view.progress, this.progress);
    const note = this.#isCancelling && !ENDS.includes(stage) ? this.note : "";
    this.#set({ stage, progress, message, updatedAt, result, failure, note, notice: view.notice?.message ?? "", place: { position, wait_seconds, attempt, max_attempts, toldAt: Date.now() } });
    if (stage === "done" && this.isKept && this.file) this.#keep();
  }

  async send() {
    const sending = (this.#sending = new AbortController());
    const { signal } = sending;
    const waiting = { signal, onWait: () => this.#set({ message: waitingWords() }) };
    try {
      await uploads.take(async () => {
        signal.throwIfAborted();
        this.#set({ message: say("preparing") });
        this.#photo ??= await prepare(this.file);
        const ticket = await inTurn(() => api.analyze(this.#wishes(), this.#key, waiting));
        if (signal.aborted && ticket.job_id) api.cancelJob(ticket.job_id).catch(() => {}); // cancelled as it came
        signal.throwIfAborted();
        this.id = ticket.job_id;
        this.imageUrl = ticket.image_url;
        this.#keep();
        this.#set({ stage: "awaiting_upload", message: say("uploading") });
        // The service counts from 10 % on, when the job is queued.
        const onProgress = (part) => this.#set({ progress: Math.floor(part * 9), message: say("uploading") });
        await api.upload(ticket, this.#photo, { ...waiting, onProgress });
        this.#set({ message: say("uploaded") });
        await api.completeUpload(this.id, waiting);
      });
      follow(this);
    } catch (error) {
      if (!signal.aborted) this.#giveUp(error);
    } finally {
      if (this.#sending === sending) this.#sending = null; // a retry may have begun meanwhile
    }
  }

  /** Found unfinished after the page was opened again. */
  async resume() {
    if (this.stage === "preparing") return this.send();
    if (this.stage !== "awaiting_upload") return follow(this);
    try {
      await api.completeUpload(this.id, {}); // it may have been uploaded, and only this was left to say
      follow(this);
    } catch (error) {
      this.#set({ stage: "stuck", message: explain(error) });
    }
  }

  retry() {
    if (this.stage !== "stuck") this.#renew();
    this.#isCancelling = false;
    this.since = Date.now();
    this.#set({ stage: "preparing", progress: 0, message: say("in_line"), place: {}, result: null, failure: null, note: "", notice: "" });
    return this.send();
  }

  async cancel() {
    this.#isCancelling = true;
    this.#set({ note: say("cancelling") });
    this.#sending?.abort(new DOMException("cancelled", "AbortError"));
    if (!this.id) {
      forget(this.#keptAs);
      this.#set({ stage: "cancelled", message: "", note: "" });
      return;
    }
    try {
      await api.cancelJob(this.id);
      follow(this); // the end tells who won
    } catch (error) {
      this.#isCancelling = false;
      this.#set({ note: explain(error) });
    }
  }

  /** True when the service no longer has it. */
  async remove() {
    try {
      if (this.id) await api.removeJob(this.id);
    } catch (error) {
      if (error.status !== 404) {
        this.#set({ note: explain(error) });
        return false;
      }
    }
    unfollow(this);
    forget(this.#keptAs);
    return true;
  }

  /** Nobody looks at it any more. */
  leave() {
    this.onChange = () => {};
    unfollow(this);
  }

  /** The stream is gone or back. */
  hear(isConnected) {
    const note = isConnected ? "" : say("reconnecting");
    if (this.note !== note && !this.#isCancelling) this.#set({ note });
  }

  /** Why it takes longer, or how far the place in line has fallen. */
  notify({ message, position, wait_seconds }) {
    this.#set(position ? { place: { ...this.place, position, wait_seconds, toldAt: Date.now() } } : { notice: message });
  }

  lose() {
    this.#set({ stage: "stuck", message: say("not_found"), note: "" });
    this.#renew();
  }

  #wishes() {
    return {
      content_type: this.#photo.type,
      content_length: this.#photo.size,
      question: this.question || null,
      locale: this.locale,
    };
  }

  #giveUp(error) {
    const isRefused = error instanceof Refused || error.status === 413 || error.status === 415;
    if (isRefused && this.id) api.removeJob(this.id).catch(() => {}); // nothing is left to wait for
    if (error.status === 404 || error.status === 410) this.#renew();
    this.#set({ stage: isRefused ? "refused" : "stuck", progress: 0, message: explain(error) });
    if (isRefused) this.id = null;
    if (isRefused) forget(this.#keptAs);
  }

  /** A job that is done is read from the service: its file need not stay. */
  async #keep() {
    const { number, batch, question, locale, id, file } = this;
    const photo = { name: this.#keptAs, key: this.#key, number, batch, question, locale, id };
    this.isKept = (await keep(this.stage === "done" ? photo : { ...photo, file })) !== null;
  }

  /** The next try is a new job. */
  #renew() {
    this.#key = newKey();
    this.id = null;
    this.updatedAt = "";
    this.lastEventId = null;
    this.acceptedAt = null;
    if (this.file) this.#keep();
  }

  #set(changes) {
    Object.assign(this, changes);
    this.onChange(this);
  }
}

// --- sending: few at once, and tickets one after another ---

const uploads = {
  free: UPLOADS_AT_ONCE,
  line: [],
  async take(work) {
    if (this.free > 0) this.free -= 1;
    else await new Promise((resolve) => this.line.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.line.shift();
      if (next) next();
      else this.free += 1;
    }
  },
};

// The first ticket brings the session's cookie: two first tickets at once would make two sessions.
let lastTurn = Promise.resolve();
function inTurn(work) {
  const turn = lastTurn.then(work);
  lastTurn = turn.catch(() => {});
  return turn;
}

// Hex, because crypto.randomUUID is missing where the page is not served over TLS.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function waitingWords() {
  return say(navigator.onLine ? "waiting_for_service" : "waiting_for_network");
}

// --- following: some by stream, the others by asking now and then ---

const streams = new Map(); // job -> its EventSource
const polled = new Set();
let isPolling = false;

function follow(job) {
  job.acceptedAt ??= Date.now();
  if (job.hasEnded || streams.has(job) || polled.has(job)) return;
  if (streams.size < STREAMS_AT_ONCE) stream(job);
  else poll(job);
}

function unfollow(job) {
  streams.get(job)?.close();
  streams.delete(job);
  polled.delete(job);
}

function stream(job) {
  const source = api.eventsOf(job.id, job.lastEventId);
  let silence;
  streams.set(job, source);

  function hear(event) {
    job.lastEventId = event.lastEventId;
    job.take(JSON.parse(event.data), event.type === "reset");
    if (!ENDS.includes(event.type)) return;
    unfollow(job);
    const [next] = polled;
    if (next) (polled.delete(next), follow(next));
  }
  for (const name of ["progress", "reset", ...ENDS]) source.addEventListener(name, hear);
  source.addEventListener("notice", (event) => job.notify(JSON.parse(event.data)));

  source.onopen = () => {
    silence = clearTimeout(silence);
    job.hear(true);
  };
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) {
      // The browser reconnects by itself, with the last id; it comes here again each time that it fails.
      silence ??= setTimeout(() => streams.get(job) === source && job.hear(false), SILENCE_MS);
      return;
    }
    clearTimeout(silence);
    unfollow(job); // refused: gone, too many streams, or a proxy that cannot reach the gateway
    job.streamAgainAt = Date.now() + STREAM_AGAIN_MS;
    poll(job);
  };
}

async function poll(newcomer) {
  polled.add(newcomer);
  if (isPolling) return;
  isPolling = true;
  while (polled.size) {
    for (const job of polled) await ask(job).then(() => api.pause(ASK_PAUSE_MS));
    await api.pause(POLL_MS);
  }
  isPolling = false;
}

async function ask(job) {
  try {
    job.take(await api.readJob(job.id));
    job.hear(true);
  } catch (error) {
    if (error.status === 404) job.lose();
    else if (error.status === 429) await api.pause(error.retryAfterMs);
    else job.hear(false);
  }
  if (!polled.has(job)) return; // it was deleted meanwhile
  if (job.hasEnded) polled.delete(job);
  else if (streams.size < STREAMS_AT_ONCE && !(job.streamAgainAt > Date.now())) {
    polled.delete(job);
    stream(job);
  }
}

// A phone that slept may have lost its streams for good.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const [job, source] of [...streams]) {
    if (source.readyState !== EventSource.CLOSED) continue;
    unfollow(job);
    follow(job);
  }
});
