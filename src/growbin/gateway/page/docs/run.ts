import { readFile } from "node:fs/promises";
import { Growbin } from "./client.js";

const [server, photo] = process.argv.slice(2) as [string, string];
const growbin = new Growbin(server);
const jobId = await growbin.submit(new Blob([await readFile(photo)], { type: "image/jpeg" }));
for await (const { name, data } of growbin.events(jobId)) {
  console.error(name, data.progress ?? "", data.message);
  if (data.result ?? data.failure) console.log(JSON.stringify(data.result ?? data.failure));
}
