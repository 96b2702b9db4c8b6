// The deprecated @fal-ai/serverless-client, under `glmimage exec`.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fal from "@fal-ai/serverless-client";

import { APP, EDIT, PHOTO, QUICK, checkPicture } from "./common.mjs";

test("run", async () => {
  const result = await fal.run(APP, { input: { ...QUICK, seed: 51 } });
  await checkPicture(result.images[0]);
});

test("subscribe by polling and by streaming", async () => {
  for (const mode of ["polling", "streaming"]) {
    const updates = [];
    const result = await fal.subscribe(APP, {
      input: { ...QUICK, seed: 52 },
      mode,
      logs: true,
      onQueueUpdate: (update) => updates.push(update.status),
    });
    assert.equal(updates.at(-1), "COMPLETED");
    await checkPicture(result.images[0]);
  }
});

test("queue", async () => {
  const { request_id: requestId } = await fal.queue.submit(APP, { input: QUICK });
  while ((await fal.queue.status(APP, { requestId, logs: false })).status !== "COMPLETED");
  await checkPicture((await fal.queue.result(APP, { requestId })).images[0]);
});

test("stream", async () => {
  const stream = await fal.stream(APP, { input: { ...QUICK, seed: 53 } });
  let events = 0;
  for await (const event of stream) events += 1;
  assert.ok(events > 3);
  await checkPicture((await stream.done()).images[0]);
});

test("storage.upload and image to image", async () => {
  const url = await fal.storage.upload(PHOTO);
  const result = await fal.subscribe(EDIT, { input: { ...QUICK, image_urls: [url] } });
  await checkPicture(result.images[0]);
});

test("invalid input", async () => {
  await assert.rejects(fal.run(APP, { input: {} }), (error) => error.status === 422);
});
