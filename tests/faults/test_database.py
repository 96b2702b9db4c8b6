"""PostgreSQL stops, crashes, and is reached over a line that breaks, drags or swallows."""

import signal
import threading
import time
from contextlib import suppress

import httpx
import pytest

from .deployment import DEADLINE_S, check_ended_once, until

STEPS = 10  # as few as fal's API takes


def painting(job):
    return job.stage == "decode" and job.progress > 0.35


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_postgres_is_restarted(deploy, expected, postgres, database, how):
    """A worker in the middle of a job and a gateway with an open stream go on by themselves."""
    service = deploy(database_url=database)
    gateway = service.gateway()
    job_id = gateway.submit(seed=7, webhook_url="http://127.0.0.1:9/hook")
    events = []
    reader = threading.Thread(target=lambda: events.extend(gateway.statuses(job_id)))
    reader.start()
    worker = service.worker()
    service.wait(job_id, painting)
    postgres.halt(how)
    answer = gateway.http.post("/queue/fal-ai/glm-image", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "runner_connection_error")
    assert answer.headers["retry-after"]
    time.sleep(1.5)
    postgres.start()
    postgres.wait_until_ready()
    later = gateway.submit(seed=8)  # at once, over connections that were broken meanwhile
    reader.join(DEADLINE_S)
    assert events[-1]["status"] == "COMPLETED"
    service.wait(job_id)
    check_ended_once(service, job_id, expected(7, STEPS), webhooks=1)
    service.wait(later)
    check_ended_once(service, later, expected(8, STEPS))
    assert worker.is_alive()
    assert "Traceback" not in service.logs(), service.logs()


def test_a_line_that_keeps_breaking(deploy, expected, through_proxy, database, proxy):
    """Every 0.7 s all connections break, of gateway and worker."""
    service = deploy(database_url=database)
    line = {"database_url": through_proxy}
    gateway = service.gateway(line)
    worker = service.worker(variables=line)
    until(lambda: service("live_workers", 0), worker.is_alive)
    done = threading.Event()

    def keep_breaking():
        while not done.wait(0.7):
            proxy.break_once()

    breaker = threading.Thread(target=keep_breaking)
    breaker.start()
    taken = {}
    try:
        deadline = time.monotonic() + DEADLINE_S
        while len(taken) < 3:
            assert time.monotonic() < deadline, service.logs()
            with suppress(httpx.HTTPStatusError):  # 503: its commit may have been on its way
                taken[gateway.submit(seed=7 + len(taken))] = 7 + len(taken)
        for job_id in taken:
            service.wait(job_id)
    finally:
        done.set()
        breaker.join()
    for job_id, seed in taken.items():
        check_ended_once(service, job_id, expected(seed, STEPS))
    assert proxy.num_accepted > 10
    assert "Traceback" not in service.logs(), service.logs()


def test_a_slow_line(deploy, expected, through_proxy, database, proxy):
    proxy.delay_s = 0.03
    service = deploy(database_url=database)
    line = {"database_url": through_proxy}
    gateway = service.gateway(line)
    service.worker(variables=line)
    job_id = gateway.submit(seed=7)
    assert list(gateway.statuses(job_id))[-1]["status"] == "COMPLETED"
    check_ended_once(service, job_id, expected(7, STEPS))


def test_a_parted_worker_loses_its_job_and_spoils_nothing(
    deploy, expected, written, through_proxy, database, proxy
):
    """Its line swallows everything: another worker ends the job; when it is back it obeys."""
    service = deploy(database_url=database)
    modules = ("postgres", "postgres_sessions")
    quick = {f"glmimage.jobs.{module}.SILENCE_S": 2.0 for module in modules}
    line = {"database_url": through_proxy, "lease_s": 4.0}
    job_id = service.submit_written(written, input={"num_inference_steps": 60})
    parted = service.worker(variables=line, constants=quick)
    service.wait(job_id, painting)
    proxy.stall()
    service.wait_for_lease(job_id)
    second = service.worker()
    job = service.wait(job_id)
    assert job.fence == 3
    second.kill()  # the rest is for the parted one
    second.join()
    # the parted one has painted on, and would store its picture
    until(lambda: "cannot be used" in service.logs())
    # written before the parted one is back: it would take the prior itself
    others = [service.submit_written(written) for _ in range(2)]
    proxy.restore()
    told = (f"The lease on job {job_id} is lost", f"Job {job_id} is another worker's by now")
    # by its last write or by its heartbeat, whichever comes first
    until(lambda: any(sentence in service.logs() for sentence in told), parted.is_alive)
    for other in others:
        service.wait(other)
        check_ended_once(service, other, expected(7))
    check_ended_once(service, job_id, expected(7, 60))
    until(lambda: len(service.stored_paths()) == 3)
    assert parted.is_alive()


def test_a_stream_of_one_gateway_sees_a_job_that_another_took(deploy, expected, database, bucket):
    """Two gateways, a worker for each stage, PostgreSQL and a bucket: nobody holds any state."""
    service = deploy(database_url=database, files_url=bucket.url)
    first, second = service.gateway(), service.gateway()
    service.worker("prior")
    service.worker("decode")
    job_id = first.submit(seed=7)
    events = list(second.statuses(job_id))
    states = [event["status"] for event in events]
    assert states[-1] == "COMPLETED"
    assert "IN_PROGRESS" in states
    told = [log["message"] for event in events for log in event.get("logs") or ()]
    assert f"step {STEPS}/{STEPS}" in told
    assert second.picture(job_id) == first.picture(job_id) == expected(7, STEPS)
    assert second.http.put(f"/queue/fal-ai/glm-image/requests/{job_id}/cancel").status_code == 400
    check_ended_once(service, job_id, expected(7, STEPS))
