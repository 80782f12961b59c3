// npm's EventSource on one job: says each event as a line of JSON, and ends when the server has sent 204.
import { EventSource } from "eventsource";

const [url, token] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const headers = { Authorization: `Bearer ${token}` };
const source = new EventSource(url, {
  fetch: (address, init) => fetch(address, { ...init, headers: { ...init.headers, ...headers } }),
});

for (const name of ["progress", "done", "failed", "cancelled", "expired", "reset"]) {
  source.addEventListener(name, (event) => say({ id: event.lastEventId, name, text: event.data }));
}
source.addEventListener("open", () => say({ opened: true }));
source.addEventListener("error", (error) => {
  if (source.readyState === EventSource.CLOSED) say({ closed: error.code ?? null });
});
