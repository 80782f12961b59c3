// The photo before it leaves the device: looked at, and made small enough.

const LONGEST_SIDE = 2048;
const MAX_BYTES = 10 * 2 ** 20;
const JPEG_QUALITY = 0.85;
const HEIC = "image/heic";

/** The file is no photo that we can use; `code` names the words. */
export class Refused extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

/** A JPEG, PNG, WebP or HEIC blob of at most 10 MB. What is larger than 2,048 pixels, or of another kind that
 * this browser can open, is drawn anew as JPEG: that saves data, and leaves camera and place behind. What the
 * service can open and this browser cannot (HEIC, or very large) goes as it is. */
export async function prepare(file) {
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer().catch(() => new ArrayBuffer(0)));
  const type = sniff(head);
  const asItIs = () => file.slice(0, file.size, type);
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) {
    if (!type) throw new Refused("not_a_photo");
    if (file.size > MAX_BYTES) throw new Refused("photo_too_large");
    return asItIs();
  }
  try {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
    if (type && type !== HEIC && scale === 1 && file.size <= MAX_BYTES) return asItIs();
    const small = await draw(picture, scale);
    if (small.size > MAX_BYTES) throw new Refused("photo_too_large");
    return small;
  } finally {
    picture.close();
  }
}

async function draw(picture, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // JPEG knows no transparency
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  if (!blob) throw new Refused("photo_too_large");
  return blob;
}

/** The type by its first bytes: file names lie, and the service looks too. */
function sniff(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("\x89PNG")) return "image/png";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "image/webp";
  return /^ftyp(he[iv]|m[is]f1)/.test(text.slice(4)) ? HEIC : null;
}
