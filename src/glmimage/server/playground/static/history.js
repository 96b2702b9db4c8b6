// Requests and thumbnails that survive a reload, in this browser only.
const MAX_RUNS = 200;
let opened = null;
const memory = new Map(); // where the browser keeps nothing, the visit's own

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("glmimage", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("runs", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function store(mode) {
  const database = await open();
  return database?.transaction("runs", mode).objectStore("runs") ?? null;
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Return the stored requests, the newest first. */
export async function loadRuns() {
  const runs = await store("readonly");
  const found = runs ? await done(runs.getAll()) : [...memory.values()];
  found.sort((one, other) => other.createdAt - one.createdAt);
  for (const old of found.splice(MAX_RUNS)) await removeRun(old.id);
  return found;
}

/** Return a stored request as it is now; undefined when it was removed. */
export async function loadRun(id) {
  const runs = await store("readonly");
  return runs ? done(runs.get(id)) : memory.get(id);
}

export async function saveRun(run) {
  const { live, ...kept } = run; // what only a running request has
  const runs = await store("readwrite");
  if (!runs) memory.set(kept.id, kept);
  else await done(runs.put(kept));
}

export async function removeRun(id) {
  memory.delete(id);
  const runs = await store("readwrite");
  if (runs) await done(runs.delete(id));
}
