// The unmodified @fal-ai/client led here by its own settings: no `exec`, no preload.
// In the environment: SERVER (https://host:port), FAL_KEY, NODE_EXTRA_CA_CERTS.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createFalClient } from "@fal-ai/client";

import { APP, EDIT, PHOTO, QUICK, checkPicture } from "./common.mjs";

const { SERVER } = process.env;
const PREFIXES = {
  "https://fal.run": `${SERVER}/run`,
  "https://queue.fal.run": `${SERVER}/queue`,
  "https://rest.fal.ai": `${SERVER}/rest`,
};

const byMiddleware = createFalClient({
  requestMiddleware: async (request) => {
    const { origin } = new URL(request.url);
    return { ...request, url: request.url.replace(origin, PREFIXES[origin] ?? origin) };
  },
});
const byProxy = createFalClient({
  proxyUrl: { url: `${SERVER}/api/fal/proxy`, when: "always" },
});
const byFetch = createFalClient({
  fetch: (url, options) => {
    const { origin } = new URL(url);
    return fetch(String(url).replace(origin, PREFIXES[origin] ?? origin), options);
  },
});

for (const [name, fal] of Object.entries({ byMiddleware, byProxy, byFetch })) {
  test(`${name}: run`, async () => {
    const { data } = await fal.run(APP, { input: { ...QUICK, seed: 31 } });
    await checkPicture(data.images[0]);
  });

  test(`${name}: subscribe by polling and by streaming`, async () => {
    for (const mode of ["polling", "streaming"]) {
      const { data } = await fal.subscribe(APP, { input: { ...QUICK, seed: 31 }, mode });
      await checkPicture(data.images[0]);
    }
  });

  test(`${name}: stream`, async () => {
    const stream = await fal.stream(APP, { input: QUICK, connectionMode: "server" });
    let events = 0;
    for await (const event of stream) events += 1;
    assert.ok(events > 3);
    await checkPicture((await stream.done()).images[0]);
  });

  test(`${name}: upload, and use it`, async () => {
    const url = await fal.storage.upload(PHOTO);
    const { data } = await fal.subscribe(EDIT, { input: { ...QUICK, image_urls: [url] } });
    await checkPicture(data.images[0]);
  });

  test(`${name}: a wrong input is told`, async () => {
    await assert.rejects(fal.subscribe(APP, { input: {} }), (error) => error.status === 422);
  });
}
