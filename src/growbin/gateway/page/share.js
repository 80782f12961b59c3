// The advice for others: as words, and as a picture that shows the bin in its colour.

import { capital } from "./words.js";

const WIDTH = 1080;
const EDGE = 72;

/** Through the system's share sheet; where there is none, the words are copied, and that is true. */
export async function share({ name, bin, steps, cautions }, colour) {
  const title = `${capital(name)} → ${bin}`;
  const lines = [...steps.map((step, index) => `${index + 1}. ${step}`), ...cautions.map((caution) => `! ${caution}`)];
  const text = [title, ...lines].join("\n");
  if (!navigator.share) {
    await navigator.clipboard.writeText(text);
    return true;
  }
  const files = [new File([await drawn(capital(name), bin, lines, colour)], "growbin.png", { type: "image/png" })];
  const whole = { title, text, files };
  await navigator.share(navigator.canShare?.(whole) ? whole : { title, text }).catch((error) => {
    if (error.name !== "AbortError") throw error; // the person thought better of it
  });
  return false;
}

function drawn(name, bin, lines, colour) {
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  const fonts = { name: 52, bin: 76, line: 44 };
  const write = (kind) => (pen.font = `${kind === "line" ? 400 : 700} ${fonts[kind]}px ${getComputedStyle(document.body).fontFamily}`);
  const broken = (text, kind) => {
    write(kind);
    const rows = [""];
    for (const word of text.split(" ")) {
      const longer = `${rows.at(-1)} ${word}`.trim();
      if (pen.measureText(longer).width > WIDTH - 2 * EDGE) rows.push(word);
      else rows[rows.length - 1] = longer;
    }
    return rows.map((row) => [row, kind]);
  };
  const head = [...broken(name, "name"), ...broken(bin, "bin")];
  const rest = lines.flatMap((line) => broken(line, "line"));
  const height = (rows) => rows.reduce((sum, [, kind]) => sum + fonts[kind] * 1.5, 0) + 2 * EDGE;
  Object.assign(canvas, { width: WIDTH, height: height(head) + height(rest) });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, WIDTH, canvas.height);
  pen.fillStyle = colour;
  pen.fillRect(0, 0, WIDTH, height(head));
  pen.textBaseline = "top";
  let top = EDGE;
  for (const [rows, ink] of [[head, "#fff"], [rest, "#13201a"]]) {
    pen.fillStyle = ink;
    for (const [row, kind] of rows) {
      write(kind);
      pen.fillText(row, EDGE, top);
      top += fonts[kind] * 1.5;
    }
    top += 2 * EDGE;
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
