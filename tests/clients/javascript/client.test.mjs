// The unmodified @fal-ai/client with its built-in hosts, under `glmimage exec`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, ValidationError, fal } from "@fal-ai/client";

import { APP, EDIT, LONG, PHOTO, QUICK, checkPicture } from "./common.mjs";

test("run", async () => {
  const { data, requestId } = await fal.run(APP, { input: { ...QUICK, seed: 21 } });
  assert.equal(data.seed, 21);
  assert.deepEqual(data.has_nsfw_concepts, [false]);
  assert.match(requestId, /^[0-9a-f-]{36}$/);
  await checkPicture(data.images[0]);
});

test("run and submit with GET: the input is in the address", async () => {
  const input = { ...QUICK, seed: 25, num_images: 2, output_format: "png", sync_mode: false };
  const ran = await fal.run(APP, { input, method: "get" });
  assert.equal(ran.data.seed, 25);
  assert.equal(ran.data.prompt, QUICK.prompt);
  assert.equal(ran.data.images.length, 2);
  await checkPicture(ran.data.images[1]);

  const image_urls = [await fal.storage.upload(PHOTO)];
  const edit = { ...QUICK, seed: 26, image_urls };
  const { request_id: requestId } = await fal.queue.submit(EDIT, { input: edit, method: "get" });
  while ((await fal.queue.status(EDIT, { requestId })).status !== "COMPLETED");
  const { data } = await fal.queue.result(EDIT, { requestId });
  assert.equal(data.seed, 26);
  await checkPicture(data.images[0]);

  const wrong = { ...QUICK, num_images: 9 };
  await assert.rejects(fal.run(APP, { input: wrong, method: "get" }), (error) => {
    assert.equal(error.getFieldErrors("num_images").length, 1);
    return true;
  });
});

test("subscribe, polling", async () => {
  const seen = [];
  const { data } = await fal.subscribe(APP, {
    input: { ...QUICK, num_images: 2 },
    logs: true,
    pollInterval: 100,
    onEnqueue: (id) => seen.push(id),
    onQueueUpdate: (update) => seen.push(update),
  });
  assert.equal(typeof seen[0], "string");
  assert.equal(seen.at(-1).status, "COMPLETED");
  assert.ok(seen.at(-1).logs.some((entry) => entry.message.includes("step 10/10")));
  for (const image of data.images) await checkPicture(image);
});

test("subscribe, streaming: every log entry once, the result at once", async () => {
  const statuses = new Set();
  let last;
  const { data } = await fal.subscribe(APP, {
    input: { ...QUICK, output_format: "png" },
    logs: true,
    mode: "streaming",
    onQueueUpdate: (update) => {
      statuses.add(update.status);
      last = update;
    },
  });
  assert.ok(statuses.has("IN_PROGRESS") && statuses.has("COMPLETED"));
  const steps = last.logs.map((entry) => entry.message).filter((text) => text.includes("step"));
  assert.equal(new Set(steps).size, steps.length);
  await checkPicture(data.images[0]);
});

test("queue: submit, status, result", async () => {
  const { request_id: requestId } = await fal.queue.submit(APP, {
    input: { ...QUICK, seed: 22 },
    priority: "low",
  });
  let status;
  do {
    status = await fal.queue.status(APP, { requestId, logs: true });
  } while (status.status !== "COMPLETED");
  const result = await fal.queue.result(APP, { requestId });
  assert.equal(result.requestId, requestId);
  await checkPicture(result.data.images[0]);
});

test("queue: streamStatus", async () => {
  const { request_id: requestId } = await fal.queue.submit(APP, { input: QUICK });
  const stream = await fal.queue.streamStatus(APP, { requestId, logs: true });
  const statuses = [];
  for await (const event of stream) statuses.push(event.status);
  assert.equal(statuses.at(-1), "COMPLETED");
  assert.equal((await stream.done()).status, "COMPLETED");
});

test("queue: cancel", async () => {
  const { request_id: requestId } = await fal.queue.submit(APP, { input: LONG });
  await fal.queue.cancel(APP, { requestId });
  while ((await fal.queue.status(APP, { requestId })).status !== "COMPLETED");
  await assert.rejects(fal.queue.result(APP, { requestId }), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.status, 499);
    return true;
  });
});

test("stream", async () => {
  const stream = await fal.stream(APP, { input: { ...QUICK, prompt: "Schild «ÖFFNUNG» 'Zürich'" } });
  let events = 0;
  for await (const event of stream) events += 1;
  assert.ok(events > 3);
  const result = await stream.done();
  assert.equal(result.prompt, "Schild «ÖFFNUNG» 'Zürich'");
  await checkPicture(result.images[0]);
});

test("stream straight from the client, with a token", async () => {
  const stream = await fal.stream(APP, { input: { ...QUICK, seed: 23 }, connectionMode: "client" });
  await checkPicture((await stream.done()).images[0]);
});

test("storage.upload", async () => {
  const url = await fal.storage.upload(PHOTO);
  const response = await fetch(url);
  assert.equal(response.headers.get("content-type"), "image/png");
  assert.deepEqual(await response.arrayBuffer(), await PHOTO.arrayBuffer());
});

test("a file of more than 90 MiB goes in parts", async () => {
  const block = new Uint8Array(1024 * 1024).map((_, index) => index % 251);
  const blob = new Blob(new Array(93).fill(block), { type: "application/octet-stream" });
  const response = await fetch(await fal.storage.upload(blob));
  assert.equal(Number(response.headers.get("content-length")), blob.size);
  const received = new Uint8Array(await response.arrayBuffer());
  for (let start = 0; start < received.length; start += block.length) {
    assert.equal(Buffer.compare(received.subarray(start, start + block.length), block), 0);
  }
});

test("a blob in the input is uploaded on the way", async () => {
  const { data } = await fal.subscribe(EDIT, { input: { ...QUICK, image_urls: [PHOTO] } });
  await checkPicture(data.images[0]);
});

test("invalid input is a ValidationError with its fields", async () => {
  for (const call of [fal.run, fal.subscribe]) {
    await assert.rejects(call(APP, { input: { ...QUICK, num_images: 9 } }), (error) => {
      assert.ok(error instanceof ValidationError);
      assert.equal(error.status, 422);
      assert.equal(error.getFieldErrors("num_images").length, 1);
      assert.match(error.requestId, /^[0-9a-f-]{36}$/);
      return true;
    });
  }
});

test("a wrong key is refused", async () => {
  const { createFalClient } = await import("@fal-ai/client");
  const stranger = createFalClient({ credentials: "not:valid" });
  await assert.rejects(stranger.queue.submit(APP, { input: QUICK }), (error) => {
    assert.equal(error.status, 401);
    return true;
  });
});

test("realtime, with a WebSocket of one's own", async (t) => {
  const { WebSocket } = await import("ws");
  globalThis.WebSocket ??= WebSocket;
  const result = await new Promise((resolve, reject) => {
    const connection = fal.realtime.connect(APP, {
      connectionKey: "test",
      throttleInterval: 0,
      onResult: (message) => {
        if (!message.images) return;
        connection.close();
        resolve(message);
      },
      onError: reject,
    });
    connection.send({ ...QUICK, seed: 24 });
  });
  assert.equal(result.seed, 24);
});
