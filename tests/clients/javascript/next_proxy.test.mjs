// @fal-ai/server-proxy's Next.js adapter, both routers, between a browser-like client and the
// server. The handlers are called as Next.js calls them. In the environment: SERVER
// (https://host:port).
import assert from "node:assert/strict";
import Module, { createRequire } from "node:module";
import { test } from "node:test";

import { ApiError, ValidationError, createFalClient } from "@fal-ai/client";

import { APP, EDIT, LONG, PHOTO, QUICK, checkPicture } from "./common.mjs";

// All that the adapter takes from Next.js is NextResponse.json, for its own refusals. NextResponse
// is a subclass of Response, which has it too: no need to install the whole framework.
const load = Module._load;
Module._load = (name, ...rest) =>
  name === "next/server" ? { NextResponse: Response } : load(name, ...rest);
const next = createRequire(import.meta.url)("@fal-ai/server-proxy/nextjs");

const { SERVER } = process.env;
const PREFIXES = {
  "https://fal.run": `${SERVER}/run`,
  "https://queue.fal.run": `${SERVER}/queue`,
  "https://rest.fal.ai": `${SERVER}/rest`,
};
const PAGE = "http://site.test";
const REWRITTEN = {
  allowedUrlPatterns: [`${new URL(SERVER).host}/**`],
  allowedEndpoints: ["run/**", "queue/**", "rest/**"],
};

// app/api/fal/proxy/route.ts: a handler for each method, from Request to Response
const appRouter = (route) => (request) => route[request.method](request);

// pages/api/fal/proxy.ts: Next.js has parsed the body, and sends what the response is told
const pageRouter = (handler) => async (request) => {
  const text = await request.text();
  const answer = { status: 200, headers: new Headers(), body: null };
  const response = {
    setHeader: (name, value) => answer.headers.set(name, value),
    status: (code) => ((answer.status = code), response),
    json: (value) => (answer.body = JSON.stringify(value)),
    send: (value) => (answer.body = value),
  };
  const { method } = request;
  await handler(
    { method, headers: Object.fromEntries(request.headers), body: text ? JSON.parse(text) : {} },
    response,
  );
  return new Response(answer.body, answer);
};

// a browser has no key: the proxy adds its own
const client = (handle, options) =>
  createFalClient({
    credentials: () => undefined,
    proxyUrl: { url: `${PAGE}${next.PROXY_ROUTE}`, when: "always" },
    fetch: (url, init) =>
      String(url).startsWith(PAGE) ? handle(new Request(url, init)) : fetch(url, init),
    ...options,
  });
const rewriting = {
  requestMiddleware: async (request) => {
    const { origin } = new URL(request.url);
    return { ...request, url: request.url.replace(origin, PREFIXES[origin] ?? origin) };
  },
};

const ways = {
  "app router": client(appRouter(next.createRouteHandler())),
  "app router, rewritten addresses": client(
    appRouter(next.createRouteHandler(REWRITTEN)),
    rewriting,
  ),
  "page router": client(pageRouter(next.createPageRouterHandler())),
  "page router, rewritten addresses": client(
    pageRouter(next.createPageRouterHandler(REWRITTEN)),
    rewriting,
  ),
};

for (const [name, fal] of Object.entries(ways)) {
  test(`${name}: run, subscribe, upload`, async () => {
    const ran = await fal.run(APP, { input: { ...QUICK, seed: 61 } });
    assert.match(ran.requestId, /^[0-9a-f-]{36}$/);
    await checkPicture(ran.data.images[0]);
    const url = await fal.storage.upload(PHOTO);
    const { data } = await fal.subscribe(EDIT, {
      input: { ...QUICK, seed: 62, image_urls: [url] },
      pollInterval: 100,
    });
    await checkPicture(data.images[0]);
  });

  test(`${name}: every refusal keeps its status`, async () => {
    for (const call of [fal.run, fal.subscribe]) {
      await assert.rejects(call(APP, { input: {} }), (error) => {
        assert.ok(error instanceof ValidationError);
        assert.equal(error.getFieldErrors("prompt")[0].type, "missing");
        return true;
      });
    }
    const status = fal.queue.status(APP, { requestId: crypto.randomUUID() });
    await assert.rejects(status, (error) => error instanceof ApiError && error.status === 404);
  });

  test(`${name}: cancel`, async () => {
    const { request_id: requestId } = await fal.queue.submit(APP, { input: LONG });
    await fal.queue.cancel(APP, { requestId });
    while ((await fal.queue.status(APP, { requestId })).status !== "COMPLETED");
    const result = fal.queue.result(APP, { requestId });
    await assert.rejects(result, (error) => error.status === 499);
  });
}

for (const name of ["app router", "app router, rewritten addresses"]) {
  test(`${name}: stream and status stream`, async () => {
    const fal = ways[name];
    const stream = await fal.stream(APP, {
      input: QUICK,
      connectionMode: "server",
    });
    let events = 0;
    for await (const event of stream) events += 1;
    assert.ok(events > 3);
    await checkPicture((await stream.done()).images[0]);
    const { data } = await fal.subscribe(APP, {
      input: QUICK,
      mode: "streaming",
    });
    await checkPicture(data.images[0]);
  });
}

test("what the proxy does not allow never gets here", async () => {
  const handle = appRouter(next.createRouteHandler());
  const response = await handle(
    new Request(`${PAGE}${next.PROXY_ROUTE}`, {
      method: "POST",
      headers: { "x-fal-target-url": `${SERVER}/run/${APP}` },
      body: "{}",
    }),
  );
  assert.equal(response.status, 400);
  assert.equal(await response.json(), "Invalid request");
});
