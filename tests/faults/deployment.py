"""A service of any number of workers and gateways, on a folder or on PostgreSQL and a bucket."""

import asyncio
import json
import signal
import threading
import time

import httpx

from glmimage.config import Settings
from glmimage.files import open_file_store
from glmimage.files.store import read_all
from glmimage.jobs import JobStore, NewJob, StoreUnavailable

from . import processes
from .bucket import CREDENTIALS

ENDPOINT = "fal-ai/glm-image"
PROMPT = "A sign 'OPEN'"
DEADLINE_S = 300
SECRET = "the same on every gateway"


class Gateway:
    """Speak to one gateway."""

    def __init__(self, process, data_dir, key):
        self.process, self.data_dir = process, data_dir
        file = data_dir / "serving.json"
        until(file.exists, process.is_alive)
        self.url = f"http://{json.loads(file.read_text())['http']}"
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Key {key}"}, timeout=DEADLINE_S
        )

    def submit(self, webhook_url=None, **fields):
        """Submit a small picture and return its id."""
        body = {"prompt": PROMPT, "image_size": "square", "num_inference_steps": 10} | fields
        body |= {"output_format": "png"}
        query = {"fal_webhook": webhook_url} if webhook_url else None
        answer = self.http.post(f"/queue/{ENDPOINT}", json=body, params=query)
        answer.raise_for_status()
        return answer.json()["request_id"]

    def statuses(self, request_id):
        """Yield the events of a status stream."""
        path = f"/queue/{ENDPOINT}/requests/{request_id}/status/stream"
        with self.http.stream("GET", path, params={"logs": 1}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def picture(self, request_id):
        """Download the picture of a request that is done."""
        answer = self.http.get(f"/queue/{ENDPOINT}/requests/{request_id}")
        assert answer.status_code == 200, answer.text
        content = self.http.get(answer.json()["images"][0]["url"])
        assert content.status_code == 200
        return content.content


class Deployment:
    """Start and end its processes; look into its stores. variables: settings of all processes."""

    def __init__(self, folder, model, **variables):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.variables = {
            "data_dir": folder / "data",
            "model": str(model),
            "device": "cpu",
            "dtype": "float32",
            "lease_s": 15.0,
            "webhook_hosts": "127.0.0.1",
            "secret": SECRET,
            "result_cache": 0,
        } | variables
        self.settings = Settings(**self.variables)
        self.started = []
        self.key = None
        self._store, self._opening = None, asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def environment(self, **changes):
        values = self.variables | changes
        named = {f"GLMIMAGE_{name.upper()}": str(value) for name, value in values.items()}
        return CREDENTIALS | named

    def worker(self, *stages, variables=(), **options):
        """Start a worker; see `processes` for the options."""
        if stages:
            options["stages"] = stages
        environment = self.environment(**dict(variables))
        return self._start("worker", environment, options)

    def kill_worker_at(self, point, *stages, job_id):
        """Have a worker die at a point, and wait until its lease on the job is over."""
        dying = self.worker(*stages, variables={"lease_s": 1.0}, die_at=point)
        dying.join(DEADLINE_S)
        assert dying.exitcode == -signal.SIGKILL, self.logs()
        self.wait_for_lease(job_id)

    def wait_for_lease(self, job_id):
        """Wait until nobody holds a job by a lease that has not run out."""
        until(lambda: (self("get", job_id).lease_until or 0.0) < time.time())

    def gateway(self, variables=(), **options):
        """Start a gateway with a data folder of its own, and wait until it listens."""
        data_dir = self.folder / f"gateway-{len(self.started)}"
        environment = self.environment(
            **{"database_url": self.settings.store_url, "files_url": self.settings.files_address}
            | dict(variables)
            | {"data_dir": data_dir}
        )
        process = self._start("gateway", environment, options)
        if self.key is None:
            self.key = self("create_key", "tests")[0]
        return Gateway(process, data_dir, self.key)

    def _start(self, target, environment, options):
        log = self.folder / f"{target}-{len(self.started)}.log"
        self.started.append(processes.start(target, environment, log, **options))
        return self.started[-1]

    def close(self):
        for process in self.started:
            process.kill()
        for process in self.started:
            process.join()
        asyncio.run_coroutine_threadsafe(self._close_store(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __call__(self, name, *args, **options):
        """Do one thing with the job store, as soon as it is there."""
        work = self._ask(name, args, options)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    async def _ask(self, name, args, options):
        while True:
            try:
                async with self._opening:
                    if self._store is None:
                        self._store = await JobStore.open(self.settings.store_url)
                return await getattr(self._store, name)(*args, **options)
            except StoreUnavailable:
                await asyncio.sleep(0.2)

    async def _close_store(self):
        if self._store is not None:
            await self._store.close()

    def submit(self, **changes):
        """Queue a small picture without a gateway and return its id."""
        values = {"prompt": PROMPT, "num_inference_steps": 2, "output_format": "png"}
        values |= changes.pop("input", {})
        job = {"width": 512, "height": 512, "seed": 7, "max_attempts": 3} | changes
        return self("enqueue", NewJob(ENDPOINT, values, **job))[0].id

    def submit_written(self, written, **changes):
        """Queue a picture whose prior a worker has written already, before any worker that lives.

        written: a WrittenPrior.
        """
        job_id = self.submit(**changes)
        (claim,) = self("claim", "the prior's", ["prior"], 1, 60.0)
        assert claim.job.id == job_id
        self("save_priors", claim, [written.prior], written.revision, release=True)
        return job_id

    def wait(self, job_id, reached=lambda job: job.ended):
        """Wait until a job has come so far, and return it."""

        deadline = time.monotonic() + DEADLINE_S
        while not reached(job := self("get", job_id)):
            assert not job.ended, job
            assert time.monotonic() < deadline, f"{job}\n{self.logs()}"
            time.sleep(0.03)
        return job

    def stored(self, path):
        """Return the content of a stored file."""
        return asyncio.run(read_all(open_file_store(self.settings.files_address), path))

    def stored_paths(self):
        """Return the paths of everything that is stored."""

        async def paths():
            store = open_file_store(self.settings.files_address)
            return [info.path async for info in store.list()]

        return asyncio.run(paths())

    def messages(self, job_id):
        return [entry.message for entry in self("logs", job_id)]

    def logs(self):
        """Return what the processes have written, for a test that fails."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text()}" for file in files)


def until(condition, alive=lambda: True):
    """Wait until a condition holds, while `alive` does."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert alive(), "its process has ended"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def check_ended_once(deployment, job_id, expected, webhooks=0):
    """Hold one job against the promise: one picture, the right one, paid and told once."""
    job = deployment("get", job_id)
    assert job.state == "done", f"{job}\n{deployment.logs()}"
    (record,) = deployment("files_of", job_id)
    (image,) = job.result["images"]
    assert image["file_id"] == record.id
    assert deployment.stored(record.path) == expected
    assert len(deployment("billing_events", job_id=job_id)) == 1
    assert len(deployment("list_webhooks", job_id)) == webhooks
    return job
