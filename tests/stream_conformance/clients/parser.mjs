// npm's eventsource-parser on one connection: says what it parsed as lines of JSON, until the server's end.
import { createParser } from "eventsource-parser";

const [url, token] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const parser = createParser({
  onEvent: ({ id, event, data }) => say({ id, name: event, text: data }),
  onRetry: (milliseconds) => say({ retry: milliseconds }),
  onComment: () => say({ comment: true }),
  onError: (error) => say({ error: error.message }),
});

const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
const decoder = new TextDecoder("utf-8", { fatal: true });
for await (const chunk of response.body) parser.feed(decoder.decode(chunk, { stream: true }));
say({ ended: true });
