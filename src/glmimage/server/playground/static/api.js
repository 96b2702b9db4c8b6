// The server's public API, as any client calls it: queue, uploads, platform. One key, in a header.
import { ApiError, Unreachable } from "./errors.js";
import { inputToJson, resultFromJson } from "./seeds.js";

export const TEXT_TO_IMAGE = "fal-ai/glm-image";
export const IMAGE_TO_IMAGE = "fal-ai/glm-image/image-to-image";
const REQUESTS = `/queue/${TEXT_TO_IMAGE}/requests`;
const SILENT_S = 40; // the stream says something every 15 s
const POSITION_S = 1.5;
const KEY_NAME = "glmimage.key";

let key = takeKeyFromAddress() ?? localStorage.getItem(KEY_NAME) ?? "";

/** A link may carry the key behind #; it is taken out of the address at once. */
function takeKeyFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!found) return null;
  localStorage.setItem(KEY_NAME, found);
  history.replaceState(null, "", location.pathname + location.search);
  return found;
}

export const hasKey = () => key !== "";
export function setKey(text) {
  key = text.trim();
  if (key) localStorage.setItem(KEY_NAME, key);
  else localStorage.removeItem(KEY_NAME);
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Key ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (answer.ok) return answer;
  throw new ApiError(answer.status, await bodyOf(answer), Number(answer.headers.get("retry-after")));
}

async function bodyOf(answer) {
  try {
    return await answer.json();
  } catch {
    return {};
  }
}

const getJson = async (path) => (await send(path)).json();

/** Send a request to the queue; return its id. */
export async function submit(endpoint, input) {
  const answer = await send(`/queue/${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-glmimage-preview": "2" },
    body: inputToJson(input),
  });
  return (await answer.json()).request_id;
}

export async function cancel(requestId) {
  await send(`${REQUESTS}/${requestId}/cancel`, { method: "PUT" });
}

/** Return what a request has come to: its answer, units, and where it came from. */
export async function result(requestId) {
  const answer = await send(`${REQUESTS}/${requestId}`);
  return {
    output: resultFromJson(await answer.text()),
    units: Number(answer.headers.get("x-fal-billable-units") ?? 0),
    servedFrom: answer.headers.get("x-fal-served-from"),
  };
}

/** Give every status of a request until it is completed, with all of its log so far.
 *
 * Lost connections are taken up again; `onConnection(false)` tells of them.
 */
export async function* statuses(requestId, signal, onConnection) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      for await (const status of streamOnce(requestId, signal)) {
        attempt = 0;
        onConnection(true);
        yield status;
        if (status.status === "COMPLETED") return;
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof ApiError && error.status < 500) throw error;
      onConnection(false);
    }
    await pause(Math.min(500 * 2 ** attempt, 4000), signal);
  }
}

async function* streamOnce(requestId, signal) {
  const inner = new AbortController();
  const stop = () => inner.abort();
  signal.addEventListener("abort", stop);
  let watch;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(stop, SILENT_S * 1000);
  };
  try {
    heard();
    const url = `${REQUESTS}/${requestId}/status/stream?logs=1`;
    const reader = (await send(url, { signal: inner.signal })).body.getReader();
    let logs = [];
    for await (const status of withPositions(requestId, events(reader, heard))) {
      if (status.logs) logs = [...logs, ...status.logs];
      yield { ...status, logs };
    }
  } catch (error) {
    if (!signal.aborted && inner.signal.aborted) throw new Unreachable();
    if (error instanceof TypeError) throw new Unreachable();
    throw error;
  } finally {
    clearTimeout(watch);
    signal.removeEventListener("abort", stop);
    inner.abort();
  }
}

async function* events(reader, heard) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

/** The stream tells changes of the request itself; how many are ahead is asked meanwhile. */
async function* withPositions(requestId, stream) {
  let waiting = false;
  let next = stream.next();
  for (;;) {
    const tick = waiting ? pause(POSITION_S * 1000).then(() => null) : new Promise(() => {});
    const event = await Promise.race([next, tick]);
    if (event === null) {
      const status = await getJson(`${REQUESTS}/${requestId}/status`).catch(() => null);
      if (status?.status === "IN_QUEUE") yield status;
      continue;
    }
    if (event.done) return;
    waiting = event.value.status === "IN_QUEUE";
    yield event.value;
    next = stream.next();
  }
}

export async function previews(requestId) {
  return (await getJson(`/platform/v1/models/requests/${requestId}/previews`)).previews;
}

/** Upload a picture; return the address under which requests may name it. */
export async function upload(file) {
  const type = file.type || "application/octet-stream";
  const answer = await send("/rest/storage/upload/initiate?storage_type=fal-cdn-v3", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ file_name: file.name || "reference", content_type: type }),
  });
  const { upload_url: target, file_url: address } = await answer.json();
  let stored;
  try {
    stored = await fetch(target, { method: "PUT", headers: { "content-type": type }, body: file });
  } catch {
    throw new Unreachable();
  }
  if (!stored.ok) throw new ApiError(stored.status, await bodyOf(stored));
  return address;
}

/** Return {ready, reason, models, queueLength}; raises Unreachable. */
export async function health() {
  try {
    const body = await getJson("/health/ready");
    return { ready: true, models: body.models ?? [], queueLength: body.queue_length ?? 0 };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const reason = error.body.reason ?? reasonsOf(error.body) ?? "The server is not ready.";
    return { ready: false, reason, models: [], queueLength: 0 };
  }
}

function reasonsOf(body) {
  return Array.isArray(body.reasons) ? body.reasons.join(" ") : null;
}

/** Return what a megapixel costs; it answers only a valid key. */
export async function unitPrice() {
  const { prices } = await getJson("/platform/v1/models/pricing");
  return prices[0]?.unit_price ?? 0;
}

export const operator = (name, query = "") => getJson(`/platform/v1/operator/${name}${query}`);

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
