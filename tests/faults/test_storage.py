"""The bucket refuses or is silent, the disk is full: pictures wait, and are painted once."""

import os
import signal
import subprocess
import time

import pytest

from .deployment import check_ended_once, until
from .proxy import FaultProxy


def waits(service):
    return lambda: "waits for the storage" in service.logs()


@pytest.mark.parametrize("status", [403, 503])
def test_a_bucket_that_refuses_writes(deploy, expected, written, bucket, status):
    """For longer than the attempts of a job would last: it is painted once, and stored later."""
    service = deploy(files_url=bucket.url)
    bucket.refusing = status
    job_id = service.submit_written(written, max_attempts=1)
    worker = service.worker()
    until(waits(service), worker.is_alive)
    time.sleep(2.5)
    assert service("get", job_id).state == "running"
    assert service.stored_paths() == []
    assert bucket.num_refused >= 2
    bucket.refusing = None
    job = service.wait(job_id)
    assert (job.attempt, job.fence) == (1, 2)
    check_ended_once(service, job_id, expected())


def test_a_job_that_waits_for_the_storage_can_be_cancelled_and_handed_back(
    deploy, expected, written, bucket
):
    service = deploy(files_url=bucket.url)
    bucket.refusing = 403
    both = first, second = [service.submit_written(written) for _ in range(2)]
    worker = service.worker()
    until(lambda: all(f"Job {id} waits" in service.logs() for id in both), worker.is_alive)
    assert service("cancel", first) == "requested"
    assert service.wait(first).state == "cancelled"
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == 0
    job = service("get", second)
    assert (job.state, job.stage, job.attempt) == ("queued", "decode", 0)
    bucket.refusing = None
    service.worker()
    service.wait(second)
    check_ended_once(service, second, expected())
    assert len(service.stored_paths()) == 1


def test_a_bucket_that_is_silent_is_given_up(deploy, expected, written, bucket):
    """The connection swallows everything; when it does not any more the picture is stored."""
    with FaultProxy(("127.0.0.1", bucket.port)) as proxy:
        service = deploy(files_url=bucket.url_at(proxy.port))
        job_id = service.submit_written(written)
        proxy.stall()
        worker = service.worker(constants={"glmimage.files.s3.ANSWER_S": 1.0})
        until(waits(service), worker.is_alive)
        proxy.break_once()
        proxy.restore()
        assert service.wait(job_id).fence == 2
        check_ended_once(service, job_id, expected())


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 24 MB, or skip."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk cannot be made: there is no `mount`")
    if done.returncode:
        pytest.skip("a small disk cannot be made: only root may mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Write until the disk is full."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk(deploy, expected, small_disk):
    """Database and pictures are on it: submits are refused, work waits, and all goes on."""
    service = deploy(data_dir=small_disk / "data")
    gateway = service.gateway()
    first = gateway.submit(seed=7)
    worker = service.worker()
    service.wait(first, lambda job: job.stage == "decode")
    fill(small_disk)
    refused = gateway.http.post("/queue/fal-ai/glm-image", json={"prompt": "a" * 4000})
    assert (refused.status_code, refused.json()["error_type"]) == (503, "runner_connection_error")
    until(lambda: "No space left" in service.logs() or "full" in service.logs(), worker.is_alive)
    time.sleep(1)
    assert worker.is_alive()
    (small_disk / "ballast").unlink()
    second = gateway.submit(seed=8)
    for job_id, seed in ((first, 7), (second, 8)):
        service.wait(job_id)
        check_ended_once(service, job_id, expected(seed, 10))
    assert "Traceback" not in service.logs(), service.logs()
