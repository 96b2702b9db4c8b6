"""Who comes next: order, priority, ageing, fairness, limits, and the position that is shown."""

import random
import time

import pytest

from glmimage.jobs import QueueFull, Usage

pytestmark = pytest.mark.anyio
ENDPOINT = "fal-ai/glm-image"
EDIT = "fal-ai/glm-image/image-to-image"


async def take_all(store, limit=1):
    taken = []
    while claims := await store.claim("worker", ["prior", "decode", "prepare"], limit, 60.0):
        taken += [claim.job.id for claim in claims]
    return taken


async def fill(store, new_job, number, **changes):
    return [(await store.enqueue(new_job(**changes)))[0].id for _ in range(number)]


async def test_a_job_is_stored_as_it_was_asked_for(store, new_job):
    asked = new_job(
        input={"prompt": "Ein Schild \u201eOFFEN\u201c \0 \ud800", "n": [1, None, 2.5]},
        num_images=3,
        width=544,
        height=2048,
        seed=2**63 - 1,
        webhook_url="https://hook.example/?a=1",
        lifecycle={"expiration_duration_seconds": 60},
        store_io=False,
        cache_key="c",
        prior_key="p",
        reference_file_ids=("f1", "f2"),
        surface="run",
        start_deadline=time.time() + 100,
    )
    job, position = await store.enqueue(asked)
    assert position == 0
    assert await store.get(job.id) == job
    for name in ("input", "num_images", "width", "height", "seed", "webhook_url", "lifecycle"):
        assert getattr(job, name) == getattr(asked, name)
    for name in ("store_io", "cache_key", "prior_key", "reference_file_ids", "surface"):
        assert getattr(job, name) == getattr(asked, name)
    assert (job.state, job.stage, job.attempt, job.result) == ("queued", "prior", 0, None)
    assert await store.get("nothing") is None


async def test_first_come_first_served(store, new_job):
    ids = await fill(store, new_job, 12)
    assert await take_all(store, limit=5) == ids


async def test_low_priority_waits_for_everything_normal(store, new_job):
    low = await fill(store, new_job, 3, priority="low")
    normal = await fill(store, new_job, 3)
    assert [await store.position(id) for id in low] == [3, 4, 5]
    assert await take_all(store, limit=2) == normal + low


async def test_low_priority_is_not_starved(store, new_job):
    low = await fill(store, new_job, 2, priority="low")
    normal = await fill(store, new_job, 3)
    await store.keep_order(ageing_s=3600)
    assert await store.position(low[0]) == 3
    await store.keep_order(ageing_s=-1)  # now both have waited long enough
    positions = [await store.position(id) for id in low + normal]
    assert sorted(positions) == [0, 1, 2, 3, 4]
    assert (await take_all(store))[:2] == low


async def test_a_key_with_many_jobs_does_not_delay_another_one(store, new_job):
    many = await fill(store, new_job, 20, api_key_id="many")
    few = await fill(store, new_job, 2, api_key_id="few")
    order = await take_all(store)
    assert order.index(few[0]) <= 1
    assert order.index(few[1]) <= 3
    assert [id for id in order if id in many] == many


async def test_large_jobs_count_for_more_than_small_ones(store, new_job):
    large = await fill(store, new_job, 4, api_key_id="large", num_images=4)
    small = await fill(store, new_job, 8, api_key_id="small")
    order = await take_all(store)
    # four pictures of the one for four pictures of the other
    assert order.index(large[1]) > order.index(small[2])


async def test_an_idle_key_saves_nothing_up(store, new_job):
    await fill(store, new_job, 50, api_key_id="busy")
    assert len(await take_all(store)) == 50
    fresh = await fill(store, new_job, 10, api_key_id="fresh")
    busy = await fill(store, new_job, 10, api_key_id="busy")
    order = await take_all(store)
    # what the busy one was given while nobody else asked is not held against it
    assert order.index(busy[0]) <= 2
    assert order.index(fresh[9]) >= 15


async def test_a_key_runs_no_more_than_its_limit(store, new_job):
    _, limited = await store.create_key("limited", concurrency=2)
    theirs = await fill(store, new_job, 5, api_key_id=limited.id)
    others = await fill(store, new_job, 3, api_key_id="other")
    claims = await store.claim("worker", ["prior"], 10, 60.0)
    taken = {claim.job.id for claim in claims}
    assert taken == {*theirs[:2], *others}
    assert await store.claim("worker", ["prior"], 10, 60.0) == []
    await store.finish(claims[0], {"images": []}, [], Usage(0.3, 0.15))
    first = {claims[0].job.id} & set(theirs)
    claims = await store.claim("worker", ["prior"], 10, 60.0)
    assert [claim.job.id for claim in claims] == (theirs[2:3] if first else [])


async def test_a_key_at_its_limit_does_not_hide_those_behind_it(store, new_job):
    _, limited = await store.create_key("limited", concurrency=1)
    await fill(store, new_job, 30, api_key_id=limited.id)
    await store.claim("worker", ["prior"], 1, 60.0)
    (other,) = await fill(store, new_job, 1, api_key_id="other", num_images=4)
    (anonymous,) = await fill(store, new_job, 1, num_images=4)
    claims = await store.claim("worker", ["prior"], 10, 60.0)
    assert {claim.job.id for claim in claims} == {other, anonymous}


async def test_a_full_queue_refuses(store, new_job):
    await fill(store, new_job, 3)
    await fill(store, new_job, 1, endpoint=EDIT)
    await store.enqueue(new_job(max_queue_length=3))
    with pytest.raises(QueueFull) as refused:
        await store.enqueue(new_job(max_queue_length=3))
    assert (refused.value.queue_length, refused.value.limit) == (4, 3)
    assert await store.queue_length(ENDPOINT) == 4
    await store.enqueue(new_job(max_queue_length=3, endpoint=EDIT))


async def test_positions_are_exact_whatever_happens(store, new_job, monkeypatch):
    """Compare with counting, with buckets so small that a queue spans many."""
    monkeypatch.setattr("glmimage.jobs.order.BUCKET_PLACES", 1000)
    dice = random.Random(5)
    waiting, claims = {}, []
    for _ in range(150):
        move = dice.choice(["enqueue"] * 4 + ["claim", "cancel", "back", "done", "order"])
        if move == "enqueue":
            changes = {
                "priority": dice.choice(["normal", "normal", "low"]),
                "api_key_id": dice.choice([None, "a", "b"]),
                "endpoint": dice.choice([ENDPOINT, ENDPOINT, EDIT]),
                "num_images": dice.randint(1, 4),
                "needs_preparation": dice.random() < 0.2,
            }
            await store.enqueue(new_job(**changes))
        elif move == "claim":
            claims += await store.claim("w", ["prepare", "prior"], dice.randint(1, 3), 60.0)
        elif move == "cancel" and waiting:
            await store.cancel(dice.choice(list(waiting)))
        elif move == "back" and claims:
            await store.hand_back(claims.pop(dice.randrange(len(claims))))
        elif move == "done" and claims:
            claim = claims.pop(dice.randrange(len(claims)))
            if claim.job.stage == "prepare":
                await store.prepared(claim, {"prompt": "b"})
            else:
                await store.finish(claim, {"images": []})
        elif move == "order" and dice.random() < 0.3:
            await store.keep_order(ageing_s=-1)
        jobs, _ = await store.live_jobs()
        waiting = {job.id: job for job in jobs if job.waiting}
    assert len(waiting) > 20
    for endpoint in (ENDPOINT, EDIT):
        queue = [job for job in waiting.values() if job.endpoint == endpoint]
        queue.sort(key=lambda job: (job.place, job.number))
        assert [await store.position(job.id) for job in queue] == list(range(len(queue)))
        assert await store.queue_length(endpoint) == len(queue)


async def test_a_job_that_does_not_wait_has_no_position(store, new_job, claim_one):
    (id,) = await fill(store, new_job, 1)
    assert await store.position(id) == 0
    await claim_one()
    assert await store.position(id) is None
    assert await store.position("nothing") is None


async def test_a_deadline_is_for_the_start_alone(store, new_job, claim_one):
    now = time.time()
    late, _ = await store.enqueue(new_job(start_deadline=now - 1, webhook_url="http://h"))
    begun, _ = await store.enqueue(new_job(start_deadline=now + 3600))
    claim = await claim_one()
    assert claim.job.id == begun.id  # the late one is not begun any more
    await store.hand_back(claim)
    expired = await store.expire_starts(now + 7200)
    assert [job.id for job in expired] == [late.id]
    late = await store.get(late.id)
    assert (late.state, late.status, late.error_type) == ("failed", 504, "request_timeout")
    assert late.result == {"detail": "Request timed out", "error_type": "request_timeout"}
    assert (await claim_one()).job.id == begun.id
    assert [webhook.job_id for webhook in await store.due_webhooks()] == [late.id]


async def test_waiting_ends_with_the_first_job(store, new_job):
    import asyncio

    assert not await store.wait_for_work(["prior"], 0.02)
    waiting = asyncio.create_task(store.wait_for_work(["prior", "decode"], 30))
    await asyncio.sleep(0)
    started = time.monotonic()
    await store.enqueue(new_job())
    assert await waiting
    assert time.monotonic() - started < 5
    assert not await store.wait_for_work(["decode"], 0.02)
    assert await store.count_open() == {"prior": 1}
