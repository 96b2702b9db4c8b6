"""Cancelling at every point, what ends at once, what is forgotten; no way back from an end."""

import time

import pytest
from sqlalchemy import insert, select, update

from glmimage.jobs import LeaseLost, Prior, Usage
from glmimage.jobs.schema import jobs, payloads

pytestmark = pytest.mark.anyio
PRIORS = [Prior(0, (1, 1), (1,))]
BODY = {"detail": [{"loc": ["body", "seed"], "msg": "Not a number.", "type": "int_parsing"}]}


async def bring_to(store, new_job, point, **changes):
    """Enqueue a job and bring it to a point of its life; return it and the claim on it."""
    preparing = point in ("preparing", "being prepared")
    job, _ = await store.enqueue(new_job(needs_preparation=preparing, **changes))
    if point in ("preparing", "queued"):
        return job, None
    stages = ["prepare"] if preparing else ["prior"]
    (claim,) = await store.claim("worker", stages, 1, 60)
    if point == "came back":
        await store.hand_back(claim)
        return job, None
    if point in ("decoding", "between stages"):
        await store.save_priors(claim, PRIORS, "r", release=point == "between stages")
    if point == "done":
        await store.finish(claim, {"images": []})
    elif point == "failed":
        await store.fail(claim, 422, BODY)
    elif point == "cancelled":
        await store.cancel(job.id)
        await store.confirm_cancelled(claim)
    return job, claim


WAITING = ["preparing", "queued", "came back", "between stages"]
HELD = ["being prepared", "writing", "decoding"]
ENDED = ["done", "failed", "cancelled"]


@pytest.mark.parametrize("point", WAITING)
async def test_a_job_in_nobodys_hands_is_cancelled_at_once(store, new_job, point):
    job, _ = await bring_to(store, new_job, point, webhook_url="http://h")
    assert await store.cancel(job.id) == "requested"
    ended = await store.get(job.id)
    assert (ended.state, ended.status, ended.error_type) == ("cancelled", 499, "client_cancelled")
    assert ended.result == {"detail": "Request cancelled", "error_type": "client_cancelled"}
    assert await store.claim("w", ["prepare", "prior", "decode"], 5, 60) == []
    assert await store.queue_length(job.endpoint) == 0
    assert await store.cancel(job.id) == "done"
    assert len(await store.due_webhooks()) == 1


@pytest.mark.parametrize("point", HELD)
async def test_a_job_that_is_worked_on_is_let_go_by_its_worker(store, new_job, point):
    job, claim = await bring_to(store, new_job, point)
    assert await store.wait_for_cancel("worker", 0.01) == frozenset()
    assert await store.cancel(job.id) == "requested"
    assert await store.cancel(job.id) == "requested"
    assert await store.wait_for_cancel("worker", 10) == {job.id}
    assert (await store.heartbeat([claim], 60)).cancelled == {job.id}
    assert not (await store.get(job.id)).ended
    assert (await store.confirm_cancelled(claim)).state == "cancelled"
    assert await store.cancel(job.id) == "done"


async def test_a_cancelled_job_of_a_dead_worker_ends(store, new_job):
    job, _ = await bring_to(store, new_job, "writing")
    await store.cancel(job.id)
    (ended,) = await store.recover_leases(time.time() + 100)
    assert (ended.state, ended.status) == ("cancelled", 499)


@pytest.mark.parametrize("point", HELD)
@pytest.mark.parametrize("call", ["hand_back", "hand_back_others", "fail", "hand on"])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_cancelled_job_that_its_worker_lets_go_otherwise_ends(
    store, new_job, point, call, attempts
):
    changes = {"max_attempts": attempts, "webhook_url": "http://h"}
    job, claim = await bring_to(store, new_job, point, **changes)
    await store.cancel(job.id)
    await {
        "hand_back": lambda: store.hand_back(claim),
        "hand_back_others": lambda: store.hand_back_others("worker"),
        "fail": lambda: store.fail(claim, 500, BODY, retryable=True),
        "hand on": lambda: hand_on(store, claim),
    }[call]()
    ended = await store.get(job.id)
    assert (ended.state, ended.status, ended.dead) == ("cancelled", 499, False)
    assert ended.result == {"detail": "Request cancelled", "error_type": "client_cancelled"}
    assert await store.queue_length(job.endpoint) == 0
    assert await store.claim("w", ["prepare", "prior", "decode"], 5, 60) == []
    assert await store.cancel(job.id) == "done"
    assert len(await store.due_webhooks()) == 1


async def hand_on(store, claim):
    """Leave a job to the workers of its next stage."""
    if claim.job.stage == "prepare":
        return await store.prepared(claim, {"prompt": "b"})
    return await store.save_priors(claim, PRIORS, "r", release=True)


async def test_who_finishes_before_the_cancel_arrives_has_finished(store, new_job):
    job, claim = await bring_to(store, new_job, "decoding")
    await store.cancel(job.id)
    await store.finish(claim, {"images": []})
    assert (await store.get(job.id)).state == "done"


@pytest.mark.parametrize("point", ENDED)
async def test_nothing_leads_back_from_an_end(store, new_job, point):
    job, claim = await bring_to(store, new_job, point)
    before = await store.get(job.id)
    for call in (
        lambda: store.finish(claim, {"images": ["again"]}, [], Usage(1, 1)),
        lambda: store.fail(claim, 500, {"detail": "x"}, retryable=True),
        lambda: store.hand_back(claim),
        lambda: store.confirm_cancelled(claim),
        lambda: store.save_priors(claim, PRIORS, "r"),
        lambda: store.prepared(claim, {}),
    ):
        with pytest.raises(LeaseLost):
            await call()
    assert await store.cancel(job.id) == "done"
    await store.keep_order(ageing_s=-1)
    assert await store.recover_leases(time.time() + 1e6) == []
    assert await store.expire_starts(time.time() + 1e6) == []
    assert await store.claim("w", ["prepare", "prior", "decode"], 5, 60) == []
    assert await store.get(job.id) == before


async def test_an_unknown_job_cannot_be_cancelled(store):
    assert await store.cancel("nothing") == "missing"


async def test_another_reason_for_cancelling_is_kept(store, new_job):
    job, _ = await bring_to(store, new_job, "queued")
    gone = {"detail": "The client went away.", "error_type": "client_disconnected"}
    await store.cancel(job.id, gone)
    assert (await store.get(job.id)).result == gone


async def test_a_refused_request_is_a_job_that_has_failed(store, new_job):
    job = await store.insert_failed(new_job(webhook_url="http://h"), 422, BODY)
    assert await store.get(job.id) == job
    assert (job.state, job.status, job.result) == ("failed", 422, BODY)
    assert (job.error, job.error_type) == ("Not a number.", "int_parsing")
    assert job.finished_at is not None
    assert len(await store.due_webhooks()) == 1
    assert await store.queue_length(job.endpoint) == 0


async def test_an_answer_from_the_cache_is_a_job_that_is_done(store, new_job):
    painted, claim = await bring_to(store, new_job, "writing", cache_key="k")
    assert await store.find_cached_result("k") is None
    await store.finish(claim, {"images": ["x"]})
    found = await store.find_cached_result("k")
    assert (found.id, found.result, found.input) == (painted.id, {"images": ["x"]}, {"prompt": "a"})
    job = await store.insert_done(new_job(cache_key="k"), found.result, "cache", Usage(1, 0))
    assert (job.state, job.status, job.served_from, job.result) == (
        *("done", 200, "cache"),
        {"images": ["x"]},
    )
    # what was painted is found, not what was served from it
    assert (await store.find_cached_result("k")).id == painted.id
    await store.delete_payload(painted.id)
    assert await store.find_cached_result("k") is None


async def test_payloads_are_forgotten_and_jobs_remembered(store, new_job):
    job, claim = await bring_to(store, new_job, "decoding", prior_key="p")
    await store.log(job.id, "hello")
    await store.finish(claim, {"images": []}, [], Usage(1, 1))
    assert await store.delete_payload(job.id)
    assert not await store.delete_payload("nothing")
    kept = await store.get(job.id)
    assert (kept.state, kept.input, kept.result) == ("done", None, None)
    assert await store.logs(job.id) == []
    assert await store.find_cached_prior("p") == ()
    assert len(await store.usage()) == 1
    assert await store.retry(job.id) is None


async def test_old_results_go_first_and_then_the_history(store, new_job):
    old, claim = await bring_to(store, new_job, "writing")
    await store.finish(claim, {"images": []})
    unstored, claim = await bring_to(store, new_job, "writing", store_io=False)
    await store.finish(claim, {"images": []})
    waiting, _ = await bring_to(store, new_job, "queued")
    now = time.time()
    assert await store.purge_results(now - 100, now - 100) == 0
    assert await store.purge_results(now - 100, now + 100) == 1
    assert (await store.get(unstored.id)).result is None
    assert (await store.get(old.id)).result == {"images": []}
    assert await store.purge_results(now + 100) == 1
    assert await store.purge_results(now + 100) == 0
    assert await store.purge_history(now + 100) == 2
    assert await store.get(old.id) is None
    assert (await store.get(waiting.id)).input is not None


async def test_history_without_results_is_looked_through_once(store, new_job, monkeypatch):
    """A year of it would be read twice a minute."""
    now = time.time()
    for state, age_s in (("queued", 9000), ("queued", 8000), ("queued", 30)):
        job, _ = await bring_to(store, new_job, state)
        await store.cancel(job.id)
        await store._db.write(end_at, job.id, now - age_s)
    assert await store.purge_results(now - 8500) == 1
    assert await store.purge_results(now - 3600) == 1
    # what nobody writes there any more shows where is looked
    await store._db.write(give_payload, now - 8000)
    assert await store.purge_results(now - 3600) == 0
    assert await store.purge_results(now + 100) == 1
    job, _ = await bring_to(store, new_job, "queued")
    await store.cancel(job.id)  # after all that was looked through
    assert await store.purge_results(now + 100) == 1
    monkeypatch.setattr("glmimage.jobs.store.LOOK_AGAIN_S", 0.0)
    assert await store.purge_results(now - 3600) == 1


async def test_results_are_found_after_the_clock_was_put_back(store, new_job):
    now = time.time()
    job, _ = await bring_to(store, new_job, "queued")
    await store.cancel(job.id)
    await store._db.write(end_at, job.id, now - 8000)
    assert await store.purge_results(now - 3600) == 1
    assert await store.purge_results(now - 8500) == 0
    await store._db.write(give_payload, now - 8000)
    assert await store.purge_results(now - 3600) == 1


async def test_many_results_are_forgotten_part_by_part(store, new_job, monkeypatch):
    monkeypatch.setattr("glmimage.jobs.upkeep.BATCH", 2)
    for _ in range(5):
        job, _ = await bring_to(store, new_job, "queued")
        await store.cancel(job.id)
    later = time.time() + 100
    assert [await store.purge_results(later) for _ in range(4)] == [2, 2, 1, 0]


def end_at(connection, job_id, when):
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(finished_at=when))


def give_payload(connection, ended_at):
    found = select(jobs.c.id).where(jobs.c.finished_at == ended_at)
    connection.execute(insert(payloads).values(job_id=connection.execute(found).scalar_one()))
