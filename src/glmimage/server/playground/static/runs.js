// Requests on their way and those of the past; whoever shows them subscribes.
import * as api from "./api.js";
import { explain } from "./errors.js";
import { loadRun, loadRuns, removeRun, saveRun } from "./history.js";
import { thumbnail } from "./pictures.js";
import { measuredStep, readLogs } from "./progress.js";
import { sizeOf } from "./sizes.js";

const PACE_NAME = "glmimage.pace";
const NOT_SENT = "It was not sent. Press Try again when the server is back.";
const NO_ANSWER = "The server may have taken it or not. Press Try again when it is back; if it was taken, it is then painted twice.";
const ACTIVE = new Set(["uploading", "queued", "running"]);
let runs = [];
const carried = new Map(); // by run: its references with their files, which no reload outlives
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
    else resume(run.id);
  }
}

/** Hold a request while it is sent, so that other tabs do not take it for lost. Browsers lock on https and localhost only. */
const hold = (id, work) => navigator.locks?.request(`glmimage.run.${id}`, work) ?? work();

/** Go on with a request that was stored before it was sent: another tab may be sending it still. */
async function resume(id) {
  const stored = await hold(id, () => loadRun(id));
  const run = runs.find((one) => one.id === id);
  if (!run) return;
  if (!stored) {
    forget(id);
    return;
  }
  show(run, stored);
  if (!isActive(stored)) return;
  if (!stored.requestId) {
    fail(id, { kind: "lost", title: "Not sent", text: "The page was left before the request was sent. Paint it again.", field: "" });
    return;
  }
  if (run.cancelled) await cancelAtServer(id, stored.requestId); // here, while the other tab sent it
  follow(id);
}

/** Return what a request was made from, to send it again; null where files are gone that were not sent. */
export function referencesOf(run) {
  if (carried.has(run.id)) return carried.get(run.id);
  const urls = run.input.image_urls ?? [];
  if (urls.length < run.references.length) return null;
  return run.references.map((reference, index) => ({ ...reference, url: urls[index] }));
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
  carried.set(id, references);
  runs = [run, ...runs];
  for (const listener of listeners) listener();
  send(id, references); // holds the run before it is stored, where other tabs find it
  saveRun(run).catch(() => {});
  return id;
}

async function send(id, references) {
  await hold(id, async () => {
    try {
      await submit(id, references);
    } catch (error) {
      const failure = explain(error);
      const failed = runs.find((one) => one.id === id && isActive(one));
      // only a request whose id is known is taken up again by the page itself
      if (failure.kind === "offline") failure.text = failed?.state === "uploading" ? NOT_SENT : NO_ANSWER;
      if (failed) fail(id, failure);
    }
    const run = runs.find((one) => one.id === id);
    if (run) await saveRun(run).catch(() => {}); // other tabs read it as soon as it is let go
  });
  if (runs.find((one) => one.id === id)?.requestId) await follow(id);
}

async function submit(id, references) {
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
  if (!sent || sent.cancelled) await cancelAtServer(id, requestId);
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
  await cancelAtServer(id, run.requestId);
}

async function cancelAtServer(id, requestId) {
  try {
    await api.cancel(requestId);
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
  carried.delete(id);
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
