// @fal-ai/server-proxy's Express adapter between a browser-like client and the server, both ways
// of the specification: (a) default settings under `exec`, (b) addresses rewritten by the client.
// In the environment: SERVER (https://host:port).
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { createFalClient } from "@fal-ai/client";
import * as falProxy from "@fal-ai/server-proxy/express";
import express from "express";

import { APP, PHOTO, QUICK, checkPicture } from "./common.mjs";

const { SERVER } = process.env;
const AUTHORITY = new URL(SERVER).host;
const PREFIXES = {
  "https://fal.run": `${SERVER}/run`,
  "https://queue.fal.run": `${SERVER}/queue`,
  "https://rest.fal.ai": `${SERVER}/rest`,
};
let listener, origin;

before(async () => {
  const app = express();
  app.all("/default", express.json(), falProxy.handler);
  app.all(
    "/rewritten",
    express.json(),
    falProxy.createHandler({
      allowedUrlPatterns: [`${AUTHORITY}/**`],
      allowedEndpoints: ["fal-ai/glm-image/**", "fal-ai/glm-image", "run/**", "queue/**", "rest/**"],
    }),
  );
  listener = app.listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  origin = `http://127.0.0.1:${listener.address().port}`;
});

after(() => listener.close());

// a browser has no key: the proxy adds its own
const client = (path, options = {}) =>
  createFalClient({
    credentials: () => undefined,
    proxyUrl: { url: `${origin}${path}`, when: "always" },
    ...options,
  });
const rewriting = {
  requestMiddleware: async (request) => {
    const { origin: host } = new URL(request.url);
    return { ...request, url: request.url.replace(host, PREFIXES[host] ?? host) };
  },
};

for (const [name, path, options] of [
  ["default settings", "/default", {}],
  ["rewritten addresses", "/rewritten", rewriting],
]) {
  test(`${name}: run, subscribe, stream, upload`, async () => {
    const fal = client(path, options);
    const ran = await fal.run(APP, { input: { ...QUICK, seed: 41 } });
    await checkPicture(ran.data.images[0]);
    const subscribed = await fal.subscribe(APP, { input: { ...QUICK, seed: 42 }, logs: true });
    await checkPicture(subscribed.data.images[0]);
    const stream = await fal.stream(APP, { input: { ...QUICK, seed: 43 }, connectionMode: "server" });
    await checkPicture((await stream.done()).images[0]);
    const url = await fal.storage.upload(PHOTO);
    assert.equal((await fetch(url)).status, 200);
  });
}

test("the adapter answers 200 for every upstream status", async () => {
  // known of the Express adapter, and documented: a client cannot tell a refusal by its status
  const { data } = await client("/default").run(APP, { input: {} });
  assert.equal(data.detail[0].type, "missing");
});
