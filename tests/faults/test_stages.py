"""The halves of the work in processes of their own, and a worker that is asked to stop."""

import os
import signal
import time

from .deployment import check_ended_once, until


def test_a_crash_in_decode_never_repeats_the_prior(deploy, expected):
    """No worker of the prior is left when decode dies, so nobody could write it again."""
    service = deploy()
    job_id = service.submit()
    writer = service.worker("prior")
    job = service.wait(job_id, lambda job: job.stage == "decode")
    assert (job.state, job.worker_id, job.attempt) == ("running", None, 0)
    os.kill(writer.pid, signal.SIGTERM)
    writer.join()
    assert writer.exitcode == 0
    written = service.messages(job_id)
    for _ in range(2):
        service.kill_worker_at("mid-denoise", "decode", job_id=job_id)
    service.worker("decode")
    job = service.wait(job_id)
    assert job.attempt == 3
    check_ended_once(service, job_id, expected())
    again = service.messages(job_id)[len(written) :]
    assert not any(message.startswith("prior") for message in again)


def test_a_worker_of_one_stage_leaves_the_other_alone(deploy):
    service = deploy()
    job_id = service.submit()
    decoder = service.worker("decode")
    until(lambda: service("live_workers", 0) and service("live_workers", 0)[0].ready)
    time.sleep(1.0)
    assert service("get", job_id).fence == 0
    assert decoder.is_alive()
    service.worker("prior")
    assert service.wait(job_id).fence == 2


def test_a_stop_finishes_what_there_is_time_for(deploy, expected, written):
    service = deploy(stop_timeout_s=600.0)
    job_id = service.submit_written(written, input={"num_inference_steps": 60})
    worker = service.worker()
    service.wait(job_id, lambda job: job.progress > 0.35)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == 0
    assert service("get", job_id).fence == 2
    check_ended_once(service, job_id, expected(7, 60))
    assert service("live_workers", 0) == []


def test_a_stop_hands_back_what_would_take_too_long(deploy, expected, written):
    """Sixty slow steps do not fit into five seconds; the attempt is not counted."""
    service = deploy(stop_timeout_s=5.0)
    job_id = service.submit_written(written, input={"num_inference_steps": 60})
    worker = service.worker(slow_s=1.0)
    service.wait(job_id, lambda job: job.progress > 0.31)
    os.kill(worker.pid, signal.SIGTERM)
    began = time.monotonic()
    worker.join()
    took_s = time.monotonic() - began
    assert worker.exitcode == 0
    job = service("get", job_id)
    assert (job.state, job.stage, job.worker_id, job.attempt) == ("queued", "decode", None, 0)
    assert took_s < 50  # the steps that were left would have taken so long
    service.worker()
    assert service.wait(job_id).attempt == 1
    check_ended_once(service, job_id, expected(7, 60))


def test_a_stop_without_any_time_hands_back_a_prior_that_is_being_written(deploy):
    service = deploy(stop_timeout_s=0.0)
    job_id = service.submit()
    worker = service.worker()
    service.wait(job_id, lambda job: job.last_log > 0)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == 0
    job = service("get", job_id)
    if not job.ended:  # it may just have been painted
        assert (job.state, job.worker_id, job.attempt) == ("queued", None, 0)
