"""A worker in a thread beside the tests, on the toy checkpoint, and the store it works for."""

import asyncio
import threading
import time
from queue import SimpleQueue

import pytest

from glmimage.config import Settings
from glmimage.jobs import JobStore, NewJob
from glmimage.policy.picture_check import PictureChecker
from glmimage.worker.report import resident_bytes

DEADLINE_S = 180
ENDPOINT = "fal-ai/glm-image"


class Judge:
    """Flag what a test says: a classifier without a model."""

    def __init__(self):
        self.score_of_next = 0.0
        self.seen = []

    def score(self, image):
        self.seen.append(image.copy())
        return self.score_of_next


class Service:
    """Do one thing after the other with the store, each in a loop of its own."""

    def __init__(self, settings):
        self.settings = settings

    def __call__(self, name, *args, **options):
        async def call():
            async with await JobStore.open(self.settings.store_url) as store:
                return await getattr(store, name)(*args, **options)

        return asyncio.run(call())

    def submit(self, **changes):
        """Queue a small picture and return its id."""
        values = {"prompt": "A sign 'OPEN'", "num_inference_steps": 2, "output_format": "png"}
        values |= changes.pop("input", {})
        job = {"width": 512, "height": 512, "seed": 7} | changes
        return self("enqueue", NewJob(ENDPOINT, values, **job))[0].id

    def wait(self, job_id, reached=lambda job: job.ended):
        """Wait until a job has come so far, and return it."""

        async def call():
            async with await JobStore.open(self.settings.store_url) as store:
                number, deadline = 0, time.monotonic() + DEADLINE_S
                while True:
                    job = await store.get(job_id)
                    if reached(job):
                        return job
                    assert not job.ended, job
                    assert time.monotonic() < deadline, job
                    await store.wait_for_changes(max(number, job.change_number), 1.0)

        return asyncio.run(call())

    def file(self, file_id):
        record = self("get_file", file_id)
        return (self.settings.data_dir / "files" / record.path).read_bytes()

    def messages(self, job_id):
        return [entry.message for entry in self("logs", job_id)]


@pytest.fixture(scope="package")
def make_settings(tiny_dir):
    def make(folder, **changes):
        values = {"model": str(tiny_dir), "device": "cpu", "dtype": "float32", "lease_s": 10.0}
        return Settings(data_dir=folder, **values | changes)

    return make


def main_memory(device):
    """Stand in for the memory of a GPU, which few test machines have: this moves as well."""
    used = resident_bytes()
    return {"total": 2**40, "free": 2**40 - used, "reserved": used, "allocated": used}


@pytest.fixture(scope="package")
def judge():
    return Judge()


@pytest.fixture(scope="package")
def service(make_settings, tmp_path_factory, judge, adapters):
    """Run one worker for all tests of this folder."""
    import torch

    from glmimage.worker import run_worker
    from glmimage.worker.link import Stop

    torch.set_num_threads(1)
    settings = make_settings(tmp_path_factory.mktemp("service"), lora_dir=adapters)
    inbox, codes = SimpleQueue(), []
    thread = threading.Thread(
        target=lambda: codes.append(
            run_worker(settings, inbox=inbox, checker=PictureChecker(0.5, judge))
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glmimage.memory.gpu_memory", main_memory)
        thread.start()
        yield Service(settings)
        inbox.put(Stop())
        thread.join(DEADLINE_S)
    assert codes == [0]
    assert Service(settings)("live_workers", 0) == []
