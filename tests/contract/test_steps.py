"""Enqueue, claim and finish as each database runs them, against the plain way, call by call."""

import dataclasses

import pytest

from glmimage.jobs import FileRecord, JobStore, LeaseLost, QueueFull, Usage
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
