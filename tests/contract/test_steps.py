"""Enqueue, claim and finish as each database runs them, against the plain way, call by call."""

import asyncio
import dataclasses

import pytest

from glmimage.jobs import FileRecord, JobStore, LeaseLost, QueueFull, StoreUnavailable, Usage
from glmimage.jobs import leases as plain_leases
from glmimage.jobs import queue as plain_queue

pytestmark = pytest.mark.anyio

# what no two jobs have in common, and the moments at which something was done
OWN = ("id", "number", "change_number", "created_at", "started_at", "finished_at", "lease_until")


class Plain:
    """Run the statements one after the other."""

    enqueue = staticmethod(plain_queue.enqueue)
    claim = staticmethod(plain_queue.claim)
    finish = staticmethod(plain_leases.finish)


def shown(job):
    values = dataclasses.asdict(job)
    moments = {name: values[name] is None for name in OWN}
    return {**values, **moments}


async def story(store, steps, new_job, api_key_id):
    """Live through what makes a difference, and return all that was answered."""
    write, told = store._db.write, []
    asked = [
        {"num_images": 2, "webhook_url": "http://h", "store_io": False, "trace_context": "t"},
        {"priority": "low", "start_deadline": 1e11, "seed": 2**63 - 1},
        {"needs_preparation": True, "lifecycle": {"a": 1}, "reference_file_ids": ("f1", "f2")},
        {"input": {"prompt": "\u201e\0\ud800", "n": [1, None]}, "cache_key": "c", "prior_key": "p"},
    ]
    for changes in asked:
        job, position = await write(steps.enqueue, new_job(api_key_id=api_key_id, **changes))
        assert await store.get(job.id) == job
        assert await store.position(job.id) == position
        told.append((shown(job), position))
    with pytest.raises(QueueFull) as full:
        await write(steps.enqueue, new_job(max_queue_length=3))
    told.append((full.value.queue_length, full.value.limit))
    claims = []
    for stages, limit in ((["prepare"], 2), (["prior", "decode"], 2), (["prior"], 9)):
        taken = await write(steps.claim, "w", stages, limit, 60.0, "r")
        claims += taken
        told.append([(shown(claim.job), claim.fence, claim.priors) for claim in taken])
        for claim in taken:
            assert await store.get(claim.job.id) == claim.job
    told.append(await store.queue_length(job.endpoint))
    claims.remove(next(claim for claim in claims if claim.job.stage == "prepare"))
    for number, claim in enumerate(claims):
        files = [record(f"{api_key_id}-{number}-{n}", claim.job.id) for n in range(number)]
        used = Usage(0.5, 0.15, 2.0) if number else None
        ended = await write(steps.finish, claim, {"images": [number]}, files, used)
        stored = await store.get(claim.job.id)
        assert dataclasses.replace(stored, input=None) == dataclasses.replace(ended, input=None)
        assert sorted(await store.files_of(claim.job.id), key=lambda file: file.id) == files
        told.append(shown(ended))
        with pytest.raises(LeaseLost):
            await write(steps.finish, claim, {}, [], None)
    events = await store.billing_events(api_key_id=api_key_id)
    told.append(sorted((event.megapixels, event.cost) for event in events))
    told.append([(hook.url, hook.state, hook.attempts) for hook in await store.list_webhooks()])
    return told


def record(name, job_id):
    return FileRecord(
        name, f"o/{name}", "image/png", 3, "a.png", 1.0, acl={"a": [1]}, job_id=job_id
    )


async def test_both_ways_tell_the_same_story(store, new_job, database_url):
    told = await story(store, store._db.steps, new_job, "key")
    with_plain = await empty_again(store, database_url)
    assert await story(with_plain, Plain, new_job, "key") == told
    await with_plain.close()


async def empty_again(store, database_url):
    """Delete everything, and return a store for what follows."""
    from sqlalchemy import text

    from glmimage.jobs.schema import metadata

    def empty(connection):
        for table in metadata.tables:
            if table != "counters":
                connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("UPDATE counters SET value = 0 WHERE name <> 'change'"))

    await store._db.write(empty)
    return await JobStore.open(database_url, create=False)


@pytest.fixture
def sent_together(monkeypatch):
    """Collect how many of one statement PostgreSQL was sent at a time."""
    from glmimage.jobs import postgres_batch

    numbers, run_each = [], postgres_batch.run_each

    def counted(statement, connection, many):
        numbers.append(len(many))
        return run_each(statement, connection, many)

    monkeypatch.setattr(postgres_batch, "run_each", counted)
    return numbers


async def at_once(calls):
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_what_comes_together_is_answered_each_for_itself(
    store, new_job, sent_together, database_url
):
    """Twelve callers at a time, some of whom are refused."""
    limits = [None, 2] * 6
    queued = await at_once(
        store.enqueue(new_job(seed=n, max_queue_length=limits[n])) for n in range(12)
    )
    refused = {n for n, answer in enumerate(queued) if isinstance(answer, QueueFull)}
    assert refused == {3, 5, 7, 9, 11}
    seeds = [0, 1, 2, 4, 6, 8, 10]
    taken = [queued[seed] for seed in seeds]
    assert [(job.seed, position) for job, position in taken] == [
        (seed, n) for n, seed in enumerate(seeds)
    ]
    for job, _ in taken:
        assert await store.get(job.id) == job
    claimed = await at_once(store.claim(f"w{n % 3}", ["prior"], 1 + n % 2, 60.0) for n in range(7))
    claims = [claim for found in claimed for claim in found]
    assert all(len(found) <= 1 + n % 2 for n, found in enumerate(claimed))
    assert sorted(claim.job.seed for claim in claims) == seeds
    assert all(claim.worker_id == f"w{n % 3}" for n, found in enumerate(claimed) for claim in found)
    assert [(await store.get(claim.job.id)).worker_id for claim in claims] == [
        claim.worker_id for claim in claims
    ]
    stale = dataclasses.replace(claims[3], fence=claims[3].fence - 1)
    ended = await at_once(
        store.finish(claim, {"n": n}, [record(f"f{n}", claim.job.id)], Usage(n, 0.15, 1.0))
        for n, claim in enumerate([*claims[:3], stale, *claims[4:]])
    )
    assert isinstance(ended.pop(3), LeaseLost)
    assert [job.id for job in ended] == [claim.job.id for claim in claims if claim is not claims[3]]
    assert [(await store.get(job.id)).result["n"] for job in ended] == [0, 1, 2, 4, 5, 6]
    paid = [event.megapixels for event in await store.billing_events()]
    assert sorted(paid) == [0, 1, 2, 4, 5, 6]
    if database_url.startswith("postgresql"):
        assert max(sent_together) > 4


async def test_one_that_fails_takes_nobody_along(store, new_job, sent_together, database_url):
    """A file's id that was used before breaks the statement, and with it the transaction."""
    for _ in range(5):
        await store.enqueue(new_job())
    claims = await store.claim("w", ["prior"], 5, 60.0)
    names = ["a", "b", "a", "c", "d"]
    ended = await at_once(
        store.finish(claim, {}, [record(name, claim.job.id)], None)
        for name, claim in zip(names, claims, strict=True)
    )
    failed = [n for n, answer in enumerate(ended) if isinstance(answer, Exception)]
    assert failed == [2]
    assert isinstance(ended[2], StoreUnavailable)
    states = [(await store.get(claim.job.id)).state for claim in claims]
    assert states == ["done", "done", "running", "done", "done"]
    if database_url.startswith("postgresql"):
        assert max(sent_together) > 1


async def test_keys_with_limits_are_kept_to_when_all_claim_at_once(
    store, new_job, sent_together, database_url
):
    _, key = await store.create_key("limited", concurrency=2)
    for n in range(6):
        await store.enqueue(new_job(seed=n, api_key_id=key.id if n < 4 else None))
    claimed = await at_once(store.claim("w", ["prior"], 1, 60.0) for _ in range(6))
    seeds = [claim.job.seed for found in claimed for claim in found]
    assert sorted(seeds) == [0, 1, 4, 5]
    if database_url.startswith("postgresql"):
        assert max(sent_together) > 1
