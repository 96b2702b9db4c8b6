"""The wall clock jumps under running processes, and gateways have a clock of their own."""

import os
import signal
import time

import pytest

from . import processes
from .deployment import check_ended_once, until
from .receiver import Receiver

HOUR_S = 3600.0


@pytest.fixture
def clock():
    """Give the number of seconds by which every process that takes it is wrong."""
    return processes.CONTEXT.Value("d", 0.0)


def test_put_forward_nobody_loses_a_lease(deploy, expected, written, clock):
    """All leases have run out at once, yet the worker is as alive as before."""
    service = deploy()
    service.gateway(clock=clock)
    steps = {"num_inference_steps": 60}
    job_id = service.submit_written(written, input=steps, max_attempts=1)
    worker = service.worker(clock=clock)
    service.wait(job_id, lambda job: job.progress > 0.35)
    for _ in range(3):
        clock.value += HOUR_S
        time.sleep(1.2)
    job = service.wait(job_id)
    assert (job.fence, job.attempt) == (2, 1)
    assert worker.is_alive()
    check_ended_once(service, job_id, expected(7, 60))


def test_put_back_a_dead_worker_is_noticed(deploy, expected, written, clock):
    """Its lease seems to end in an hour; nobody waits for that."""
    service = deploy(lease_s=4.0)
    clock.value = HOUR_S
    steps = {"num_inference_steps": 60}
    job_id = service.submit_written(written, input=steps, max_attempts=10)
    worker = service.worker(clock=clock)
    service.wait(job_id, lambda job: job.progress > 0.35)
    assert service("get", job_id).lease_until > time.time() + HOUR_S
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    clock.value = 0.0
    soon = {
        "glmimage.server.sweeper.LEASES_AT_MOST": 2.0,
        "glmimage.server.sweeper.PREPARATION_LEASE_S": 1.0,
    }
    service.gateway(clock=clock, constants=soon)
    service.worker(clock=clock)
    assert service.wait(job_id).attempt >= 2
    check_ended_once(service, job_id, expected(7, 60))


@pytest.mark.parametrize("ahead_s", [-HOUR_S, HOUR_S], ids=["behind", "ahead"])
def test_a_gateway_whose_clock_is_wrong(deploy, expected, database, clock, ahead_s):
    """By PostgreSQL's clock go workers, deadlines and webhooks, whatever the gateway believes."""
    receiver = Receiver()
    clock.value = ahead_s
    service = deploy(database_url=database, no_worker_timeout_s=6.0)
    worker = service.worker()
    until(lambda: service("live_workers", 0), worker.is_alive)
    gateway = service.gateway(clock=clock)
    time.sleep(6.2)  # longer than it is patient without a worker
    gateway.http.headers["x-fal-request-timeout"] = "120"
    job_id = gateway.submit(webhook_url=receiver.url, seed=7)
    job = service.wait(job_id)
    assert abs(job.start_deadline - job.created_at - 120) < 5
    check_ended_once(service, job_id, expected(7, 10), webhooks=1)
    until(lambda: receiver.received[job_id])
    receiver.close()
