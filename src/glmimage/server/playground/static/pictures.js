// Pictures in the browser: opened, made small, saved.
const THUMBNAIL = 360;
const MAX_BYTES = 50 * 1024 * 1024;
const MIN_SIDE = 32;
const MAX_ASPECT = 4;

/** Return a file's picture as {file, name, thumb, width, height}; throw an Error that says why not. */
export async function openReference(file) {
  const name = file.name || "The picture";
  if (file.size > MAX_BYTES) throw new Error(`${name} is larger than 50 MB. Make it smaller first.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} could not be opened as a picture. Use PNG, JPEG or WebP.`);
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < MIN_SIDE) throw new Error(`${name} is too small: 32 px is the least.`);
  if (Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
    throw new Error(`${name} is too long: the longer side may be 4 times the shorter one. Crop it.`);
  }
  return { file, name, width, height, thumb: shrink(bitmap) };
}

/** Return a small copy of a picture at an address, as a data URI. */
export async function thumbnail(url) {
  return shrink(await createImageBitmap(await fetchPicture(url)));
}

/** Return a picture's content; throw an Error that says why not, and whose `gone` says that it has expired. */
export async function fetchPicture(url) {
  let answer;
  try {
    answer = await fetch(url);
    if (answer.ok) return await answer.blob();
  } catch {
    throw new Error("The server does not answer. Try again when it is back.");
  }
  const gone = answer.status === 404 || answer.status === 410;
  throw Object.assign(new Error(`The server did not give the picture: it answered ${answer.status}. Try again.`), { gone });
}

function shrink(bitmap) {
  const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.82);
}

export async function download(url, name) {
  const address = URL.createObjectURL(await fetchPicture(url));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // without https there is no clipboard but this one
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
