"""Two gateways on one store: each duty is done by one of them, and by the other when it dies."""

import asyncio
import collections
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.anyio
NUM_JOBS = 12
RESULT = {"images": [], "seed": 1, "prompt": "a", "timings": {}}
SERVE = [sys.executable, "-m", "glmimage", "serve", "--workers", "0", "--no-auth"]


class Receiver(http.server.ThreadingHTTPServer):
    """Take webhooks and count them by request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = collections.Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests[self.headers["X-Fal-Webhook-Request-Id"]] += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(database_url, tmp_path):
    """Give the function that starts a gateway and waits until it listens."""
    started = []

    def begin(name):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")}
        ours = {"GLMIMAGE_DATABASE_URL": database_url, "GLMIMAGE_WEBHOOK_HOSTS": "127.0.0.1"}
        ports = ["--http-port", "0", "--https-port", "0"]
        process = subprocess.Popen(
            [*SERVE, *ports, "--data-dir", str(tmp_path / name)],
            env=kept | ours,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        for line in process.stdout:
            if "glmimage env" in line:
                return process
        return pytest.fail("the gateway did not start")

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


async def until(condition, what, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def finish_some(store, new_job, url):
    """Finish jobs that have a webhook, and leave one to a worker that is dead."""
    ids = []
    for _ in range(NUM_JOBS):
        job, _ = await store.enqueue(new_job(webhook_url=url))
        (claim,) = await store.claim("w", ["prior"], 1, 60)
        await store.finish(claim, RESULT)
        ids.append(job.id)
    dead, _ = await store.enqueue(new_job())
    await store.claim("dead", ["prior"], 1, 0.001)
    return ids, dead.id


async def test_the_duties_survive_the_gateway_that_did_them(store, new_job, start, receiver):
    first = start("first")

    async def led():
        return not await store.lead()

    await until(led, "the first gateway leads")
    start("second")
    expected = collections.Counter()
    for killed in (False, True):
        if killed:
            first.send_signal(signal.SIGKILL)
        ids, dead = await finish_some(store, new_job, receiver.url)
        expected.update(ids)

        async def delivered():
            # and noted: who is killed in between has it sent again, rightly
            noted = await store.list_webhooks(limit=1000)
            return len(noted) == len(expected) and {one.state for one in noted} == {"delivered"}

        async def freed():
            return (await store.get(dead)).state == "queued"  # noqa: B023

        await until(delivered, "the webhooks are delivered")
        await until(freed, "the job of the dead worker is queued again")
        assert await led()
        await store.cancel(dead)
    await asyncio.sleep(1.0)  # whoever sent one twice would have done so by now
    assert receiver.requests == expected
    hooks = await store.list_webhooks(limit=1000)
    assert {hook.state for hook in hooks} == {"delivered"}
    assert {hook.attempts for hook in hooks} == {1}
