// What a person says of an answer: kept in this browser by the job's id, told to the service once.

import { tellVerdict } from "./api.js";

const KEPT = "growbin-opinion:";
const LONGEST_MS = 7 * 24 * 3600 * 1000; // no result is kept longer

export class Opinion {
  isTold = false;
  isRight = false;
  choice = null; // {name, category, material}; the name only where it was found by name

  constructor(jobId) {
    this.jobId = jobId;
    Object.assign(this, kept(jobId));
  }

  confirm() {
    this.isRight = true;
    this.#tell({ right: true });
  }

  choose(choice) {
    this.choice = choice;
    this.isRight = false;
    this.#tell({ right: false, category: choice.category, material: choice.material });
  }

  takeBack() {
    this.choice = null;
    this.#keep();
  }

  forget() {
    attempt(() => localStorage.removeItem(KEPT + this.jobId));
  }

  #tell(verdict) {
    if (!this.isTold) tellVerdict(this.jobId, verdict);
    this.isTold = true;
    this.#keep();
  }

  #keep() {
    const { isTold, isRight, choice } = this;
    attempt(() => localStorage.setItem(KEPT + this.jobId, JSON.stringify({ isTold, isRight, choice, at: Date.now() })));
  }
}

/** What was said of jobs that are gone; `jobIds` are those that are there, if `isWhole` all of them. */
export function forgetOthers(jobIds, isWhole) {
  const keys = attempt(() => Object.keys(localStorage)) ?? [];
  for (const key of keys.filter((key) => key.startsWith(KEPT))) {
    const id = key.slice(KEPT.length);
    const isOld = !(Date.now() - kept(id)?.at < LONGEST_MS);
    if (isOld || (isWhole && !jobIds.has(id))) attempt(() => localStorage.removeItem(key));
  }
}

const kept = (jobId) => attempt(() => JSON.parse(localStorage.getItem(KEPT + jobId)));

/** Storage may be forbidden or full; what was said then lasts as long as the page. */
function attempt(work) {
  try {
    return work();
  } catch {
    return null;
  }
}
