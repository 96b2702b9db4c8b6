"""Gateways die in the middle of what they do; callers lose an answer, never a request."""

import signal
import time

import httpx
import pytest

from .deployment import ENDPOINT, check_ended_once, until
from .receiver import Receiver

STEPS = 10


@pytest.fixture
def receiver():
    running = Receiver()
    yield running
    running.close()


@pytest.mark.parametrize(("point", "num_jobs"), [("before enqueue", 0), ("after enqueue", 1)])
def test_killed_in_the_middle_of_a_submit(deploy, point, num_jobs):
    """The caller gets no answer; the request is there as a whole or not at all."""
    service = deploy()
    dying = service.gateway(die_at=point)
    with pytest.raises(httpx.TransportError):
        dying.submit(seed=7)
    dying.process.join()
    assert dying.process.exitcode == -signal.SIGKILL
    jobs, _ = service("live_jobs")
    assert len(jobs) == service("queue_length", ENDPOINT) == num_jobs
    later = service.gateway().submit(seed=7)
    assert len(service("live_jobs")[0]) == num_jobs + 1
    assert service("position", later) == num_jobs


def test_killed_in_the_middle_of_a_stream(deploy, expected):
    """The stream breaks off; another gateway's goes on with it to the end."""
    service = deploy()
    first, second = service.gateway(), service.gateway()
    job_id = first.submit(seed=7)
    events = first.statuses(job_id)
    assert next(events)["status"] == "IN_QUEUE"
    first.process.kill()
    with pytest.raises(httpx.TransportError):
        list(events)
    service.worker()
    assert list(second.statuses(job_id))[-1]["status"] == "COMPLETED"
    assert second.picture(job_id) == expected(7, STEPS)
    check_ended_once(service, job_id, expected(7, STEPS))


@pytest.mark.parametrize(
    ("point", "num_before", "num_in_all"), [("before webhook", 0, 1), ("after webhook", 1, 2)]
)
def test_killed_over_a_webhook(deploy, receiver, point, num_before, num_in_all):
    """It is delivered at least once: what the dead gateway had begun is due again."""
    service = deploy()
    soon = {"glmimage.jobs.outbox.DELIVERY_LEASE_S": 2.0}
    gateway = service.gateway()
    job_id = gateway.submit(webhook_url=receiver.url, seed=-1)  # invalid: it has ended already
    until(lambda: receiver.received[job_id] == 1)
    gateway.process.kill()
    gateway.process.join()
    receiver.received.clear()
    dying = service.gateway(die_at=point, constants=soon)
    job_id = dying.submit(webhook_url=receiver.url, seed=-1)
    dying.process.join()
    assert dying.process.exitcode == -signal.SIGKILL
    assert receiver.received[job_id] == num_before
    service.gateway(constants=soon)
    until(lambda: service("list_webhooks", job_id)[0].state == "delivered")
    assert receiver.received[job_id] == num_in_all


def test_a_worker_killed_after_its_commit_leaves_the_webhook_to_a_gateway(
    deploy, receiver, expected, written
):
    service = deploy()
    job_id = service.submit_written(written, webhook_url=receiver.url)
    service.kill_worker_at("after commit", job_id=job_id)
    (webhook,) = service("list_webhooks", job_id)
    assert (webhook.state, webhook.attempts) == ("pending", 0)
    service.gateway()
    until(lambda: receiver.received[job_id])
    assert not receiver.wrong
    check_ended_once(service, job_id, expected(), webhooks=1)


def test_what_a_killed_worker_left_is_swept(deploy, expected, written):
    service = deploy()
    job_id = service.submit_written(written)
    service.kill_worker_at("before commit", job_id=job_id)
    (orphan,) = service.stored_paths()
    service.worker()
    service.wait(job_id)
    check_ended_once(service, job_id, expected())
    (record,) = service("files_of", job_id)
    assert set(service.stored_paths()) == {orphan, record.path}
    service.gateway(
        constants={
            "glmimage.server.sweeper.ORPHANS_S": 0.2,
            "glmimage.server.sweeper.ORPHAN_AGE_S": 1.0,
        }
    )
    until(lambda: service.stored_paths() == [record.path])
    time.sleep(1.5)
    assert service.stored_paths() == [record.path]
