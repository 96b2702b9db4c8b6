// A start that comes too late, while no worker takes anything; under `glmimage exec`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, fal } from "@fal-ai/client";

import { APP, QUICK } from "./common.mjs";

for (const name of ["run", "subscribe"]) {
  test(`${name}: told as the caller's own timeout, and not tried again`, async () => {
    const called = [];
    fal.config({
      requestMiddleware: async (request) => {
        if (request.method === "POST") called.push(request.url);
        return request;
      },
    });
    await assert.rejects(fal[name](APP, { input: QUICK, startTimeout: 1.1 }), (error) => {
      assert.ok(error instanceof ApiError);
      assert.equal(error.status, 504);
      assert.equal(error.isUserTimeout, true);
      assert.equal(error.body.error_type, "request_timeout");
      assert.match(error.requestId, /^[0-9a-f-]{36}$/);
      return true;
    });
    assert.equal(called.length, 1);
  });
}
