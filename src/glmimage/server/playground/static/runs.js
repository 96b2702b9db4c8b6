// Requests on their way and those of the past; whoever shows them subscribes.
import * as api from "./api.js";
import { explain } from "./errors.js";
import { loadRuns, removeRun, saveRun } from "./history.js";
import { thumbnail } from "./pictures.js";
import { measuredStep, readLogs } from "./progress.js";
import { sizeOf } from "./sizes.js";

const PACE_NAME = "glmimage.pace";
const ACTIVE = new Set(["uploading", "queued", "running"]);
let runs = [];
const listeners = new Set();

export const isActive = (run) => ACTIVE.has(run.state);
export const allRuns = () => runs;

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function show(run, changes) {
  const next = { ...run, ...changes };
  runs = runs.map((one) => (one.id === next.id ? next : one));
  for (const listener of listeners) listener();
  return next;
}

/** Change a run wherever it is by now, and keep it when that matters after a reload. */
function update(id, changes, keep = true) {
  const run = runs.find((one) => one.id === id);
  if (!run) return null;
  const next = show(run, changes);
  if (keep) saveRun(next).catch(() => {});
  return next;
}

/** Read the history; go on with what was under way when the page was left. */
export async function restore() {
  const known = new Set(runs.map((run) => run.id));
  const stored = (await loadRuns()).filter((run) => !known.has(run.id));
  runs = [...runs, ...stored];
  for (const listener of listeners) listener();
  for (const run of stored.filter(isActive)) {
    if (run.requestId) follow(run.id);
    else fail(run.id, { kind: "lost", title: "Not sent", text: "The page was left before the request was sent. Paint it again.", field: "" });
  }
}

/** Paint: upload the references, submit, follow. Returns the new run's id. */
export function start({ input, references, price }) {
  const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  const run = {
    id,
    createdAt: Date.now(),
    state: references.length ? "uploading" : "queued",
    endpoint: references.length ? api.IMAGE_TO_IMAGE : api.TEXT_TO_IMAGE,
    input,
    references: references.map(({ thumb, name }) => ({ thumb, name })),
    price,
    previews: {},
    thumbs: [],
  };
  runs = [run, ...runs];
  for (const listener of listeners) listener();
  saveRun(run).catch(() => {});
  send(id, references);
  return id;
}

async function send(id, references) {
  try {
    const urls = [];
    for (const reference of references) {
      reference.url ??= await api.upload(reference.file);
      urls.push(reference.url);
    }
    const run = runs.find((one) => one.id === id);
    if (!run || !isActive(run)) return;
    const input = urls.length ? { ...run.input, image_urls: urls } : run.input;
    update(id, { input, state: "queued" });
    const requestId = await api.submit(run.endpoint, input);
    const sent = update(id, { requestId, sentAt: Date.now() });
    if (!sent || sent.cancelled) await api.cancel(requestId);
    if (sent) await follow(id);
  } catch (error) {
    fail(id, explain(error));
  }
}

async function follow(id) {
  const leaving = new AbortController();
  const run = update(id, { live: { leaving, connected: true } }, false);
  const onConnection = (connected) => {
    const now = runs.find((one) => one.id === id);
    if (now?.live && now.live.connected !== connected) {
      update(id, { live: { ...now.live, connected } }, false);
    }
  };
  try {
    for await (const status of api.statuses(run.requestId, leaving.signal, onConnection)) take(id, status);
    await finish(id);
  } catch (error) {
    if (!leaving.signal.aborted) fail(id, explain(error));
  }
}

function take(id, status) {
  const run = runs.find((one) => one.id === id);
  if (!run) return;
  if (status.status === "IN_QUEUE") {
    update(id, { state: "queued", position: status.queue_position }, false);
    return;
  }
  const progress = readLogs(status.logs ?? [], run.input.num_images);
  const changes = { progress, heardAt: Date.now() };
  if (status.status === "IN_PROGRESS") {
    if (run.state !== "running") changes.startedAt = Date.now();
    changes.state = "running";
  }
  const fresh = progress.numPreviews > (run.live?.numPreviews ?? 0);
  if (fresh) changes.live = { ...run.live, numPreviews: progress.numPreviews };
  update(id, changes, run.state !== "running");
  if (fresh) showPreviews(id, run.requestId);
  remember(run, progress);
}

async function showPreviews(id, requestId) {
  try {
    const found = await api.previews(requestId);
    const previews = Object.fromEntries(found.map((one) => [one.image_index, one]));
    update(id, { previews }, false);
  } catch {
    // the picture comes all the same
  }
}

async function finish(id) {
  const run = runs.find((one) => one.id === id);
  let answer;
  for (;;) {
    try {
      answer = await api.result(run.requestId);
      break;
    } catch (error) {
      if (explain(error).kind !== "offline") throw error;
      await api.pause(1000);
    }
  }
  const { output, units, servedFrom } = answer;
  update(id, {
    state: "done",
    endedAt: Date.now(),
    result: output,
    cost: units * run.price,
    servedFrom,
    live: null,
  });
  const thumbs = await Promise.all(output.images.map((image) => thumbnail(image.url).catch(() => "")));
  update(id, { thumbs });
}

function fail(id, error) {
  const state = error.kind === "cancelled" ? "cancelled" : "failed";
  update(id, { state, error, endedAt: Date.now(), live: null });
}

export async function cancelRun(id) {
  const run = update(id, { cancelled: true });
  if (!run.requestId) {
    fail(id, { kind: "cancelled", title: "Cancelled", text: "Nothing was sent.", field: "" });
    return;
  }
  try {
    await api.cancel(run.requestId);
  } catch {
    update(id, { cancelled: false }); // it has ended by itself, or the server is away
  }
}

export function markExpired(id) {
  update(id, { expired: true });
}

export async function forget(id) {
  const run = runs.find((one) => one.id === id);
  run?.live?.leaving?.abort();
  runs = runs.filter((one) => one.id !== id);
  for (const listener of listeners) listener();
  await removeRun(id).catch(() => {});
}

// How long a step of such a picture took before: measured here, for the time before the first step.

function paceKey(run) {
  const { width, height } = sizeOf(run.input.image_size);
  const guided = run.input.guidance_scale > 1 ? "guided" : "plain";
  return `${width}x${height} ${guided} ${run.references.length}`;
}

function knownPaces() {
  try {
    return JSON.parse(localStorage.getItem(PACE_NAME)) ?? {};
  } catch {
    return {};
  }
}

function remember(run, progress) {
  const stepS = measuredStep(progress);
  if (stepS === null) return;
  localStorage.setItem(PACE_NAME, JSON.stringify({ ...knownPaces(), [paceKey(run)]: stepS }));
}

export function knownStep(run) {
  return knownPaces()[paceKey(run)] ?? null;
}
