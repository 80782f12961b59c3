// A photo in, the advice out: a whole growbin client, for browsers, Node 20 or newer, Deno and Bun.
//
//   npx tsx run.ts http://127.0.0.1:8080 photo.jpg

export interface Ticket {
  job_id: string;
  upload_url: string;
  upload_method: string;
  upload_headers: Record<string, string>;
  links: { upload_complete: string; self: string; events: string };
}

export interface ProgressEvent {
  job_id: string;
  stage: string;
  progress: number;
  message: string;
  attempt: number;
  updated_at: string;
  position?: number;
  wait_seconds?: number;
  result?: Result;
  failure?: { code: string; detail: string; retryable: boolean };
}

export interface Result {
  items: { name: string; category: string; material: string | null; bin: string; steps: string[]; cautions: string[] }[];
  certainty?: "sure" | "probable" | "unsure";
  image_url: string;
}

const ENDS = ["done", "failed", "cancelled", "expired"];
const SILENCE_MS = 45_000; // a stream is never silent for longer than its heartbeat of 15 s
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The service said no: `code` is a stable word, the message says what to do. */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, detail: string) {
    super(`${code}: ${detail}`);
  }
}

/** One session. Keep `token`: it is what opens its jobs later. */
export class Growbin {
  constructor(readonly server: string, public token = "") {}

  async beginSession(): Promise<void> {
    this.token = "";
    this.token = (await this.call<{ token: string }>("POST", "/api/v1/sessions")).token;
  }

  /** The JSON of the answer. Every call may be repeated, so it is, while the answer is "not now". */
  async call<Answer>(method: string, path: string, body?: object, headers: Record<string, string> = {}): Promise<Answer> {
    for (;;) {
      const answer = await fetch(this.server + path, {
        method,
        headers: { "Content-Type": "application/json", ...headers, ...this.session },
        body: body && JSON.stringify(body),
      });
      if (answer.ok) return (await answer.json()) as Answer;
      await pause(await patienceMs(answer));
    }
  }

  /** Ticket, upload, upload-complete. After that the job is safe; returns its id. */
  async submit(photo: Blob, locale = "en"): Promise<string> {
    const wishes = { content_type: photo.type, content_length: photo.size, locale };
    const key = { "Idempotency-Key": crypto.randomUUID() }; // the same key gives the same job, however often we ask
    const ask = () => this.call<Ticket>("POST", "/api/v1/waste/analyze", wishes, key);
    if (!this.token) await this.beginSession();
    const ticket = await ask().catch(async (problem: unknown) => {
      if (!(problem instanceof Problem && problem.status === 401)) throw problem;
      await this.beginSession(); // it has ended, and so have its jobs
      return ask();
    });
    // Straight to the storage, with the ticket's headers and without our token. 412: it is there already.
    const { upload_url, upload_method: method, upload_headers: headers } = ticket;
    const put = await fetch(upload_url, { method, headers, body: photo });
    if (!put.ok && put.status !== 412) throw new Problem(put.status, "upload_refused", await put.text());
    await this.call("POST", ticket.links.upload_complete);
    return ticket.job_id;
  }

  /** Each event once and in order, whatever is cut, up to the one that ends the job. After `reset` what came
   * before no longer counts: its data is the job as it is now. */
  async *events(jobId: string): AsyncGenerator<{ name: string; data: ProgressEvent }> {
    let lastId = "";
    for (;;) {
      let waitMs = 2000;
      const silence = new AbortController();
      let timer = setTimeout(() => silence.abort(), SILENCE_MS);
      try {
        const answer = await fetch(`${this.server}/api/v1/waste/jobs/${jobId}/events`, {
          headers: { ...this.session, ...(lastId ? { "Last-Event-ID": lastId } : {}) },
          signal: silence.signal,
        });
        if (!answer.ok) waitMs = await patienceMs(answer);
        else for await (const fields of blocks(answer.body!)) {
          clearTimeout(timer);
          timer = setTimeout(() => silence.abort(), SILENCE_MS);
          waitMs = Number(fields.get("retry") ?? waitMs);
          lastId = fields.get("id") ?? lastId;
          const name = fields.get("event");
          if (!name || !fields.has("data")) continue;
          yield { name, data: JSON.parse(fields.get("data")!) as ProgressEvent };
          if (ENDS.includes(name)) return;
        }
      } catch (error) {
        if (error instanceof Problem) throw error; // anything else was a cut: on from the last id
      } finally {
        clearTimeout(timer);
        silence.abort();
      }
      await pause(waitMs);
    }
  }

  private get session(): Record<string, string> {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }
}

/** How long to wait before the same call again. Throws a Problem when that would help nothing. */
async function patienceMs(answer: Response): Promise<number> {
  const { code = "unexpected_answer", detail = answer.statusText } = await answer.json().catch(() => ({}));
  if (![429, 502, 503, 504].includes(answer.status)) throw new Problem(answer.status, code, detail);
  return Number(answer.headers.get("Retry-After") ?? 2) * 1000;
}

/** The fields of each block; a line that begins with a colon is the heartbeat. */
async function* blocks(body: ReadableStream<Uint8Array>): AsyncGenerator<Map<string, string>> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.search(/\r?\n\r?\n/)) >= 0; text = text.slice(end).replace(/^\r?\n\r?\n/, "")) {
      const lines = text.slice(0, end).split(/\r?\n/).map((line) => /^(\w*): ?(.*)$/.exec(line));
      yield new Map(lines.flatMap((line) => (line && line[1] ? [[line[1], line[2]!]] : [])));
    }
  }
}
