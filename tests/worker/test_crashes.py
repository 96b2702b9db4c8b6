"""Worker processes that are killed or told to stop: the next one makes the same picture."""

import os
import signal
import subprocess
import sys
import threading
import time
from queue import SimpleQueue

import pytest

from glmimage.worker import run_worker
from glmimage.worker.link import Stop

from .conftest import DEADLINE_S, Service

STEPS = 30


@pytest.fixture
def start(make_settings, tmp_path):
    """Give the function that starts a worker process on a store of this test's own."""
    started = []
    settings = make_settings(tmp_path, lease_s=3.0)

    def begin(*stages):
        names = ("data_dir", "model", "device", "dtype", "lease_s")
        variables = {f"GLMIMAGE_{name.upper()}": str(getattr(settings, name)) for name in names}
        command = [sys.executable, "-m", "glmimage", "worker"]
        if stages:
            command += ["--stages", ",".join(stages)]
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment))
        return started[-1]

    yield settings, begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def in_decode(job):
    return job.stage == "decode" and job.progress > 0.35


def test_killed_and_stopped_workers_lose_nothing(service, start):
    """One job is killed in denoise, one is handed back; a third worker ends both."""
    settings, begin = start
    mine = type(service)(settings)
    killed = mine.submit(seed=7, input={"num_inference_steps": STEPS})
    worker = begin()
    mine.wait(killed, in_decode)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    held = mine("get", killed)
    assert (held.state, held.worker_id is None) == ("running", False)

    worker = begin()
    job = mine.wait(killed, lambda job: job.fence == 2 and in_decode(job))
    assert job.attempt == 2
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)  # twice: hand back at once
    started = time.monotonic()
    assert worker.wait() == 0
    assert time.monotonic() - started < 60
    job = mine("get", killed)
    if not job.ended:
        assert (job.state, job.stage, job.attempt) == ("queued", "decode", 1)
        begin()
    job = mine.wait(killed)
    assert job.state == "done"
    # the prior was written once only
    assert sum(message == "prior 100 %" for message in mine.messages(killed)) == 1
    undisturbed = service.wait(service.submit(seed=7, input={"num_inference_steps": STEPS}))
    contents = [
        one.file(ended.result["images"][0]["file_id"])
        for one, ended in ((mine, job), (service, undisturbed))
    ]
    assert contents[0] == contents[1]
    assert len(mine("files_of", killed)) == 1
    assert len(mine("billing_events")) == 1


def test_the_stages_live_in_processes_of_their_own(service, start):
    settings, begin = start
    mine = type(service)(settings)
    begin("prior")
    begin("decode")
    job_id = mine.submit(num_images=2, seed=7)
    job = mine.wait(job_id)
    assert job.fence == 2
    undisturbed = service.wait(service.submit(num_images=2, seed=7))
    for ours, theirs in zip(job.result["images"], undisturbed.result["images"], strict=True):
        assert mine.file(ours["file_id"]) == service.file(theirs["file_id"])


def test_a_job_that_always_ends_the_worker_is_given_up(make_settings, tmp_path, monkeypatch):
    """A mistake of ours that no request's own failure catches: its attempts count."""
    mine = Service(make_settings(tmp_path))
    job_id = mine.submit(max_attempts=2)

    def fail(engine):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("glmimage.engine.engine.Engine.step", fail)
    work_until_it_fails(mine.settings)
    job = mine("get", job_id)
    assert (job.state, job.attempt, job.worker_id) == ("queued", 1, None)
    work_until_it_fails(mine.settings)
    job = mine("get", job_id)
    assert (job.state, job.attempt, job.dead) == ("failed", 2, True)


def work_until_it_fails(settings):
    failures, inbox = [], SimpleQueue()

    def work():
        try:
            run_worker(settings, inbox=inbox)
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(DEADLINE_S)
    inbox.put(Stop(at_once=True))  # it may not have failed
    thread.join(DEADLINE_S)
    assert failures == ["a mistake"]
