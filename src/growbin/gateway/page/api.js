// The service's calls. Every one may be repeated, so whatever is only temporary is waited out here.

import { language } from "./words.js";

const PATIENCE_MS = 60_000;
const JOBS = "/api/v1/waste/jobs";
const VERDICT_AGAIN_MS = 3000;

/** The service, or the storage, said no. `code` is its stable word. */
export class Problem extends Error {
  constructor(status, code, detail, retryAfterMs) {
    super(detail ?? code);
    Object.assign(this, { status, code, detail, retryAfterMs });
  }
}

/** Nobody answered. */
export class Unreachable extends Error {
  code = "unreachable";
}

export const isTemporary = (error) =>
  error instanceof Unreachable || [429, 502, 503, 504].includes(error.status);

export const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)));
  });

/** A ticket for one photo; the same `key` gives the same job, with a fresh ticket. */
export const analyze = (wishes, key, waiting) =>
  patiently(waiting, () => call("POST", "/api/v1/waste/analyze", { body: wishes, headers: { "Idempotency-Key": key }, ...waiting }));

export const completeUpload = (id, waiting) =>
  patiently(waiting, () => call("POST", `/upload-complete/${id}`, waiting));

export const readJob = (id) => call("GET", `${JOBS}/${id}`);
export const cancelJob = (id) => patiently({}, () => call("POST", `${JOBS}/${id}/cancel`));
export const removeJob = (id) => call("DELETE", `${JOBS}/${id}`);
export const listJobs = (cursor) => patiently({}, () => call("GET", `${JOBS}?limit=50${cursor ? `&cursor=${cursor}` : ""}`));
export const eventsOf = (id, lastId) =>
  new EventSource(`${JOBS}/${id}/events` + (lastId ? `?last_event_id=${encodeURIComponent(lastId)}` : ""));

/** Advice by rule, without a photo: `query` is {name}, or {category, material, condition: [...]}. */
export function readAdvice({ condition = [], ...query }, signal) {
  const given = Object.entries({ ...query, locale: language() }).filter(([, value]) => value);
  given.push(...condition.map((each) => ["condition", each]));
  return call("GET", `/api/v1/waste/advice?${new URLSearchParams(given)}`, { signal });
}

/** What a person says of an answer. It helps us, not them: whether it arrives is not their concern. */
export async function tellVerdict(id, verdict) {
  const tell = () => call("POST", `${JOBS}/${id}/feedback`, { body: verdict });
  await tell()
    .catch(() => pause(VERDICT_AGAIN_MS).then(tell))
    .catch(() => {});
}

/** Put the photo where the ticket says. XMLHttpRequest, because fetch tells nothing of an upload's progress. */
export const upload = (ticket, photo, { signal, onWait, onProgress }) =>
  patiently({ signal, onWait }, () => new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    request.open(ticket.upload_method, ticket.upload_url);
    for (const [name, value] of Object.entries(ticket.upload_headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onload = () => {
      const isThere = (request.status >= 200 && request.status < 300) || request.status === 412;
      if (isThere) resolve();
      else reject(new Problem(request.status, "upload_refused"));
    };
    request.onerror = () => reject(new Unreachable());
    signal.addEventListener("abort", () => (request.abort(), reject(signal.reason)));
    request.send(photo);
  }));

async function call(method, path, { body, headers = {}, signal } = {}) {
  const options = { method, headers: { ...headers }, signal };
  if (body) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    signal?.throwIfAborted();
    throw new Unreachable();
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const retryAfterMs = Number(response.headers.get("Retry-After")) * 1000;
  throw new Problem(response.status, answer.code ?? "internal", answer.detail, retryAfterMs);
}

/** Repeat what failed only for now: until it is our turn (429), as long as we are offline, else for a minute. */
async function patiently({ signal, onWait }, attempt) {
  let givesUpAt = Date.now() + PATIENCE_MS;
  for (let delayMs = 500; ; delayMs = Math.min(delayMs * 2, 5000)) {
    try {
      return await attempt();
    } catch (error) {
      const isOurTurnLater = error.status === 429;
      if (!isTemporary(error) || (!isOurTurnLater && navigator.onLine && Date.now() > givesUpAt)) throw error;
      if (isOurTurnLater) givesUpAt = Date.now() + PATIENCE_MS;
      else onWait?.();
      if (!navigator.onLine) {
        await online(signal);
        givesUpAt = Date.now() + PATIENCE_MS;
      }
      await pause(error.retryAfterMs || delayMs, signal);
    }
  }
}

const online = (signal) =>
  new Promise((resolve, reject) => {
    addEventListener("online", resolve, { once: true });
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
