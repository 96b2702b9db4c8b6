"""The change feed and the logs: nothing is missed, whoever writes at the same time."""

import asyncio
import time

import pytest

from glmimage.jobs import JobStore

pytestmark = pytest.mark.anyio


async def test_changes_come_in_order_and_each_job_once(store, new_job, claim_one):
    start = await store.newest_change()
    first, _ = await store.enqueue(new_job())
    second, _ = await store.enqueue(new_job())
    assert [job.id for job in await store.changes_since(start)] == [first.id, second.id]
    claim = await claim_one()
    changed = await store.changes_since(start)
    assert [(job.id, job.state) for job in changed] == [
        (second.id, "queued"),
        (first.id, "running"),
    ]
    assert changed[0].input is None
    number = changed[-1].change_number
    assert number == await store.newest_change()
    assert await store.changes_since(number) == []
    await store.report([(first.id, "step 1/2", "INFO")], [(claim, 0.5)])
    (job,) = await store.changes_since(number)
    assert (job.progress, job.last_log) == (0.5, (await store.logs(first.id))[-1].number)


async def test_a_limit_never_cuts_a_change_in_two(store, new_job):
    for _ in range(6):
        await store.enqueue(new_job())
    start = await store.newest_change()
    await store.claim("w", ["prior"], 4, 60)  # four jobs in one change
    await store.claim("w", ["prior"], 2, 60)
    found = await store.changes_since(start, limit=2)
    assert len(found) == 4
    assert len(await store.changes_since(found[-1].change_number, limit=2)) == 2


async def test_waiting_for_changes_hears_of_other_processes(database_url, store, new_job):
    start = await store.newest_change()
    assert await store.wait_for_changes(start, 0.02) == []
    async with await JobStore.open(database_url, create=False) as other:
        waiting = asyncio.create_task(store.wait_for_changes(start, 30))
        await asyncio.sleep(0)
        began = time.monotonic()
        job, _ = await other.enqueue(new_job())
        (heard,) = await waiting
        assert heard.id == job.id
        assert time.monotonic() - began < 5


async def test_a_reader_of_the_feed_misses_nothing(database_url, store, new_job):
    """Writers of several connections commit in any order; the reader asks all the time."""
    seen: dict[str, str] = {}
    writers_done = asyncio.Event()

    async def read():
        number = 0
        while True:
            last_round = writers_done.is_set()
            for job in await store.changes_since(number, limit=5):
                seen[job.id] = job.state
                assert job.change_number >= number
                number = job.change_number
            if last_round and number >= await store.newest_change():
                return

    async def write(other):
        for _ in range(15):
            await other.enqueue(new_job())
            for claim in await other.claim("w", ["prior"], 1, 60):
                await other.finish(claim, {"images": []})

    others = [await JobStore.open(database_url, create=False) for _ in range(3)]
    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(other) for other in others))
    # a transaction that was open when the last writer looked is over by now
    await asyncio.sleep(0.1)
    writers_done.set()
    await asyncio.wait_for(reader, 60)
    for other in others:
        await other.close()
    assert len(seen) == 45
    jobs = [await store.get(id) for id in seen]
    assert {job.id: job.state for job in jobs} == seen


async def test_live_jobs_are_those_that_have_not_ended(store, new_job):
    stages = ["prepare", "prior"]
    ids = {}
    for name in ("done", "running", "between", "preparing", "queued"):
        preparing = name == "preparing"
        ids[name] = (await store.enqueue(new_job(needs_preparation=preparing)))[0].id
        if name in ("done", "running", "between"):
            (claim,) = await store.claim("w", stages, 1, 60)
            if name == "done":
                await store.finish(claim, {})
            elif name == "between":
                await store.save_priors(claim, [], "r", release=True)
    live, number = await store.live_jobs()
    assert [job.id for job in live] == [
        ids[n] for n in ("running", "between", "preparing", "queued")
    ]
    assert number == await store.newest_change()


async def test_logs_are_read_from_where_one_stopped(store, new_job):
    job, _ = await store.enqueue(new_job())
    other, _ = await store.enqueue(new_job())
    await store.log(job.id, "one")
    await store.log(other.id, "of another", "WARN")
    await store.report([(job.id, "two \0", "DEBUG"), (job.id, "three", "ERROR")])
    entries = await store.logs(job.id)
    assert [(entry.message, entry.level) for entry in entries] == [
        ("one", "INFO"),
        ("two ", "DEBUG"),
        ("three", "ERROR"),
    ]
    assert abs(entries[0].at - time.time()) < 60
    later = await store.logs(job.id, after=entries[0].number)
    assert [entry.message for entry in later] == ["two ", "three"]
    assert (await store.get(job.id)).last_log == entries[-1].number
