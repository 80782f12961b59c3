// The panel that runs a photo and shows the raw stream; buttons to copy.

const $ = (id) => document.getElementById(id);
const ENDS = /^event: (done|failed|cancelled|expired)/m;

for (const code of document.querySelectorAll("pre > code")) {
  if (!navigator.clipboard) continue;
  const button = document.createElement("button");
  const frame = document.createElement("div");
  button.textContent = "Copy";
  frame.className = "copied";
  code.parentElement.replaceWith(frame);
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.append(code);
  frame.append(button, pre);
  button.onclick = async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };
}

let job = null; // its id
let lastId = "";
let stream = null; // what cuts it
let run = 0;

const say = (text) => ($("said").textContent = text);

async function call(method, path, body) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${told.code}: ${told.detail}`);
  return told;
}

async function begin(photo) {
  const mine = ++run;
  stream?.abort();
  $("raw").textContent = lastId = "";
  try {
    say("A ticket …");
    const ticket = await call("POST", "/api/v1/waste/analyze", { content_type: photo.type, content_length: photo.size, locale: "en" });
    job = ticket.job_id;
    say("The photo, straight to the storage …");
    const put = await fetch(ticket.upload_url, { method: ticket.upload_method, headers: ticket.upload_headers, body: photo });
    if (!put.ok) throw new Error(`the storage answered ${put.status}`);
    await call("POST", ticket.links.upload_complete);
    if (mine === run) await follow();
  } catch (error) {
    say(error.message);
  }
}

async function follow() {
  stream = new AbortController();
  $("cut").disabled = false;
  $("resume").disabled = true;
  say(lastId ? `Resumed after ${lastId}` : "The stream is open");
  const headers = lastId ? { "Last-Event-ID": lastId } : {};
  try {
    const answer = await fetch(`/api/v1/waste/jobs/${job}/events`, { headers, signal: stream.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part; !(part = await reader.read()).done; ) {
      $("raw").textContent += part.value;
      $("raw").scrollTop = $("raw").scrollHeight;
      lastId = [...$("raw").textContent.matchAll(/^id: (.*)$/gm)].at(-1)?.[1].trim() ?? lastId;
    }
    say(answer.status === 204 ? "204: you have seen the end" : "The stream has ended");
  } catch {
    say(`Cut. The last id that was seen: ${lastId || "none"}`);
  }
  $("cut").disabled = true;
  $("resume").disabled = ENDS.test($("raw").textContent);
}

$("cut").onclick = () => stream.abort();
$("resume").onclick = () => {
  $("raw").textContent += "\n";
  follow();
};
$("photo").onchange = () => $("photo").files[0] && begin($("photo").files[0]);
$("example").onclick = async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 480, height: 360 });
  const pen = canvas.getContext("2d");
  pen.fillStyle = `hsl(${Math.random() * 360} 40% 90%)`;
  pen.fillRect(0, 0, 480, 360);
  pen.fillStyle = "#1e783c";
  pen.fillRect(190, 120, 100, 220);
  pen.fillRect(215, 40, 50, 90);
  begin(await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg")));
};
