"""A really listening server over a real job store, and a worker in the same process that paints
small squares at once, so that no test needs torch."""

import asyncio
import contextlib
import io
import socket
import threading
import time
import uuid

import httpx
import pytest
import uvicorn
from PIL import Image

from glmimage.config import Settings
from glmimage.files import open_file_store
from glmimage.jobs import FileRecord, JobStore, LeaseLost, Usage
from glmimage.policy import open_policy
from glmimage.server.app import build_app

ENDPOINT = "fal-ai/glm-image"
TIMEOUT_S = 20.0


class SquareWorker:
    """Claim from the real store and finish with squares; what a prompt says decides the outcome.

    "crash" fails the request, "flagged" blacks it out, "slow" waits for `go`.
    """

    def __init__(self, store, files):
        self.store, self.files = store, files
        self.id = f"squares-{uuid.uuid4()}"
        self.awake, self.go = asyncio.Event(), asyncio.Event()
        self.awake.set()
        self.claimed = []

    async def run(self):
        while True:
            await self.awake.wait()
            await self.store.worker_seen(self.id, model="squares", ready=True)
            claims = await self.store.claim(self.id, ["prior", "decode"], 4, 30.0)
            if not claims:
                await self.store.wait_for_work(["prior", "decode"], 0.5)
                continue
            await asyncio.gather(*(self.work(claim) for claim in claims))

    async def work(self, claim):
        job = claim.job
        self.claimed.append(job)
        prompt = job.input["prompt"]
        with contextlib.suppress(LeaseLost):
            await self.store.log(job.id, "step 1/2")
            if "slow" in prompt and not await self.until_told(claim):
                await self.store.confirm_cancelled(claim)
                return
            if "crash" in prompt:
                detail = {"loc": ["body"], "msg": "It broke.", "type": "internal_server_error"}
                await self.store.fail(claim, 500, {"detail": [detail]})
                return
            await self.store.log(job.id, "step 2/2")
            images, records = await self.paint(job, "flagged" in prompt)
            result = {
                "images": images,
                "seed": job.seed,
                "prompt": prompt,
                "timings": {"inference": 0.25},
            }
            megapixels = Usage(job.megapixels, 0.15, 0.25)
            await self.store.finish(claim, result, records, megapixels)

    async def until_told(self, claim):
        """Wait for `go`; False when the request was cancelled before."""
        while not self.go.is_set():
            beat = await self.store.heartbeat([claim], 30.0)
            if beat.cancelled:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.go.wait(), 0.02)
        return True

    async def paint(self, job, flagged):
        kind = job.input["output_format"]
        content = io.BytesIO()
        colour = "black" if flagged else (job.seed % 256, 80, 160)
        Image.new("RGB", (job.width // 32, job.height // 32), colour).save(content, kind)
        image = {
            "width": job.width,
            "height": job.height,
            "content_type": f"image/{kind}",
            "file_size": len(content.getvalue()),
            "nsfw": flagged,
        }
        images, records = [], []
        for index in range(job.num_images):
            name = f"{job.id}-{index}.{kind}"
            if job.input["sync_mode"]:
                images.append({**image, "data_uri": f"data:image/{kind};base64,AAAA"})
                continue
            file_id, path = str(uuid.uuid4()), f"outputs/{name}"
            await self.files.put(path, content.getvalue())
            images.append({**image, "file_id": file_id, "file_name": name})
            records.append(
                FileRecord(
                    id=file_id,
                    path=path,
                    content_type=f"image/{kind}",
                    size=len(content.getvalue()),
                    name=name,
                    created=time.time(),
                    expires=time.time() + 3600,
                    owner=job.api_key_id,
                    job_id=job.id,
                )
            )
        return images, records


class Server:
    """Run store, app, uvicorn and worker in a thread of their own."""

    def __init__(self, folder, policy=None, **options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {"data_dir": folder, "http_port": port, **options}
        self.settings = Settings(**options)
        self.policy = policy or open_policy()
        self.url = f"http://127.0.0.1:{self.settings.http_port}"
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure = None

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(TIMEOUT_S), "the server did not start"
        if self._failure is not None:
            raise self._failure
        key = {"authorization": f"Key {self.key}"}
        self.http = httpx.Client(base_url=self.url, headers=key, timeout=TIMEOUT_S)
        self.stranger = httpx.Client(base_url=self.url, timeout=TIMEOUT_S)
        return self

    def __exit__(self, *error):
        self.http.close()
        self.stranger.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT_S)

    def call(self, awaitable):
        """Await something of the server's loop from the test."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(TIMEOUT_S)

    def tell(self, function, *arguments):
        """Call something that belongs to the server's loop, such as an event's `set`."""

        async def run():
            return function(*arguments)

        return self.call(run())

    def submit(self, prompt="a square", endpoint=ENDPOINT, headers=None, query=None, **fields):
        """Submit to the queue and return the answer's body."""
        answer = self.http.post(
            f"/queue/{endpoint}",
            json={"prompt": prompt, "image_size": "square", **fields},
            headers=headers,
            params=query,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def completed(self, request_id, logs=False):
        """Poll until the request has ended and return its last status."""
        url = f"/queue/{ENDPOINT}/requests/{request_id}/status"
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self.http.get(url, params={"logs": int(logs)})
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 202, answer.text
            time.sleep(0.01)
        raise AssertionError(f"{request_id} did not end: {answer.text}")

    def result(self, request_id):
        """Wait for the end and return the answer to the result's GET."""
        self.completed(request_id)
        return self.http.get(f"/queue/{ENDPOINT}/requests/{request_id}")

    def until(self, condition):
        """Poll a condition of the test's."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)
        return found

    def _run(self):
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self):
        self.store = await JobStore.open(f"sqlite:///{self.settings.data_dir / 'jobs.sqlite3'}")
        self.files = open_file_store(self.settings.files_address)
        self.key, self.key_record = await self.store.create_key("tests")
        self.app = build_app(self.settings, self.store, self.files, self.policy)
        self.services = self.app.services
        self.worker = SquareWorker(self.store, self.files)
        config = uvicorn.Config(
            self.app,
            port=self.settings.http_port,
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        async with self.app.running():
            working = asyncio.create_task(self.worker.run())
            serving = asyncio.create_task(server._serve())
            while not server.started:
                await asyncio.sleep(0.005)
            self._ready.set()
            await self._stop.wait()
            server.should_exit = True
            await serving
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        await self.store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve a module's tests with the default settings."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a server with settings of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(policy=None, **options):
            folder = tmp_path / uuid.uuid4().hex
            folder.mkdir()
            return stack.enter_context(Server(folder, policy, **options))

        yield start


@pytest.fixture
def paused(server):
    """Keep the worker from claiming, so that requests stay in the queue."""
    server.tell(server.worker.awake.clear)
    # what it is waiting for may still be claimed: let it come round once
    probe = server.submit("a probe")
    server.http.put(f"/queue/{ENDPOINT}/requests/{probe['request_id']}/cancel")
    server.completed(probe["request_id"])
    yield server
    server.tell(server.worker.awake.set)


@pytest.fixture
def held(server):
    """Let "slow" requests run until the test says `go`."""
    server.tell(server.worker.go.clear)
    yield server
    server.tell(server.worker.go.set)
