"""The change feed and the logs: nothing is missed, whoever writes at the same time."""

import asyncio
import time
from dataclasses import replace

import asyncpg
import pytest

from glmimage.jobs import JobStore, feed, queue
from glmimage.jobs.schema import jobs
from glmimage.server import live_jobs
from glmimage.server.live_jobs import LiveJobs

pytestmark = pytest.mark.anyio


async def test_changes_come_in_order_and_each_job_once(store, new_job, claim_one):
    start = await store.newest_change()
    first, _ = await store.enqueue(new_job())
    second, _ = await store.enqueue(new_job())
    assert [job.id for job in (await store.changes_since(start)).jobs] == [first.id, second.id]
    claim = await claim_one()
    changed, cursor = await store.changes_since(start)
    assert [(job.id, job.state) for job in changed] == [
        (second.id, "queued"),
        (first.id, "running"),
    ]
    assert changed[0].input is None
    assert (await store.changes_since(cursor)).jobs == []
    await store.report([(first.id, "step 1/2", "INFO")], [(claim, 0.5)])
    ((job,), _) = await store.changes_since(cursor)
    assert (job.progress, job.last_log) == (0.5, (await store.logs(first.id))[-1].number)


@pytest.fixture
async def in_progress(request, database_url, postgres_address):
    """Give a connection in a transaction that has begun, and goes on until the test commits it."""
    elsewhere = getattr(request, "param", "here") == "elsewhere"
    connection = await asyncpg.connect(postgres_address if elsewhere else database_url)
    await connection.execute("BEGIN; SELECT pg_current_xact_id()")
    yield connection
    connection.terminate()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("in_progress", ["here", "elsewhere"], indirect=True)
async def test_nobody_waits_for_what_others_have_in_progress(store, new_job, in_progress):
    """Neither a transaction of another store, nor one in another database of the server."""
    cursor = await store.newest_change()
    for _ in range(3):
        job, _ = await store.enqueue(new_job())
        ((told,), cursor) = await store.changes_since(cursor)
        assert told.id == job.id
        assert not await store.changes_since(cursor)  # who waits is not woken for what it knows


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_change_whose_number_is_an_older_one_is_heard_of(store, new_job, in_progress):
    """A transaction that has begun with something else comes to a job that is newer than it."""
    live = LiveJobs(store)
    cursor = await store.newest_change()
    queued, _ = await store.enqueue(new_job())
    ((job,), cursor) = await store.changes_since(cursor)
    live.put(job)
    await in_progress.execute(
        "UPDATE jobs SET state = 'running', fence = fence + 1, queue = NULL, open_stage = NULL, "
        "change_number = pg_current_xact_id()::text::bigint"
    )
    await in_progress.execute("COMMIT")
    ((job,), _) = await store.changes_since(cursor)
    assert (job.id, job.state) == (queued.id, "running")
    assert job.change_number < queued.change_number
    live.put(job)
    live.put(queued)  # what a slow answer brings is old
    assert (await live.get(job.id)).state == "running"
    live.put(replace(job, state="done", change_number=job.change_number - 1))
    assert (await live.get(job.id)).state == "done"


async def test_waiting_for_changes_hears_of_other_processes(database_url, store, new_job):
    start = await store.newest_change()
    assert await store.wait_for_changes(start, 0.02) == ([], start)
    async with await JobStore.open(database_url, create=False) as other:
        waiting = asyncio.create_task(store.wait_for_changes(start, 30))
        await asyncio.sleep(0)
        began = time.monotonic()
        job, _ = await other.enqueue(new_job())
        ((heard,), _) = await waiting
        assert heard.id == job.id
        assert time.monotonic() - began < 5


async def test_what_was_written_since_the_last_answer_is_told_at_once(
    database_url, store, new_job, monkeypatch
):
    monkeypatch.setattr("glmimage.jobs.store.SAFETY_POLL_S", 60.0)
    await store.enqueue(new_job())
    _, cursor = await store.wait_for_changes(await store.newest_change(), 0.02)
    async with await JobStore.open(database_url, create=False) as other:
        job, _ = await other.enqueue(new_job())
    async with asyncio.timeout(10):
        ((heard,), _) = await store.wait_for_changes(cursor, 30)
    assert heard.id == job.id


async def test_what_was_answered_is_not_asked_again(store, new_job, monkeypatch):
    asked = []
    ask = store.changes_since

    async def counted(cursor):
        asked.append(cursor)
        return await ask(cursor)

    monkeypatch.setattr(store, "changes_since", counted)
    start = await store.newest_change()
    await store.enqueue(new_job())
    cursor, numbers = start, []
    while numbers.count(1) < 2 and len(numbers) < 50:  # a late word of a write has it asked again
        asked.clear()
        _, cursor = await store.wait_for_changes(cursor, 0.02)
        numbers.append(len(asked))
    assert numbers.count(1) == 2, numbers  # the change itself, and nothing when the time is up


async def test_a_reader_of_the_feed_misses_nothing(database_url, store, new_job):
    """Writers of several connections commit in any order; the reader asks all the time."""
    seen: dict[str, str] = {}
    writers_done = asyncio.Event()
    start = await store.newest_change()

    async def read():
        cursor = start
        while True:
            last_round = writers_done.is_set()
            changed, cursor = await store.changes_since(cursor)
            seen.update({job.id: job.state for job in changed})
            if last_round and not changed:
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
    stored = [await store.get(id) for id in seen]
    assert {job.id: job.state for job in stored} == seen


async def test_changes_that_come_one_by_one_are_told_without_a_pause(store, new_job, monkeypatch):
    monkeypatch.setattr(live_jobs, "FEED_PAUSE_S", 60.0)
    live = LiveJobs(store)
    following = asyncio.create_task(live.follow())
    await live.loaded()
    async with asyncio.timeout(30):
        for _ in range(3):
            await asyncio.sleep(2 * live_jobs.FEED_BUSY_S)
            job, _ = await store.enqueue(new_job())
            while job.id not in live._live:
                await asyncio.sleep(0.01)
    following.cancel()


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
    live, cursor = await store.live_jobs()
    assert [job.id for job in live] == [
        ids[n] for n in ("running", "between", "preparing", "queued")
    ]
    # the cursor itself may be older than the newest: PostgreSQL counts other databases' writes too
    changed, cursor = await store.changes_since(cursor)
    assert not changed
    added = (await store.enqueue(new_job()))[0]
    changed, _ = await store.changes_since(cursor)
    assert [job.id for job in changed] == [added.id]


async def test_live_jobs_are_read_in_pages_and_once(store, new_job, monkeypatch):
    monkeypatch.setattr(feed, "PAGE", 2)
    for _ in range(8):
        await store.enqueue(new_job())
    for claim in await store.claim("w", ["prior"], 3, 60):
        await store.save_priors(claim, [], "r", release=True)

    def pages(connection, *which):
        return [len(page) for page in feed.waiting(connection, *which)]

    between = (jobs.c.open_stage, jobs.c.queue.is_(None))
    assert await store._db.read(pages, jobs.c.queue) == [2, 2, 1]
    assert await store._db.read(pages, *between) == [2, 1]
    read = []
    monkeypatch.setattr(feed, "job_from", lambda row: read.append(row) or queue.job_from(row))
    assert len((await store.live_jobs()).jobs) == len(read) == 8


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


async def test_what_lives_is_read_at_one_moment(store, new_job):
    """Jobs go from one place to another meanwhile, several at once; none is overlooked."""
    for _ in range(5):
        await store.enqueue(new_job(max_attempts=10_000))
    going = True

    async def to_and_fro():
        while going:
            await store.claim("w", ["prior"], 5, 60)
            await store.recover_leases(time.time() + 1000)

    moving = asyncio.create_task(to_and_fro())
    counts = [len((await store.live_jobs()).jobs) for _ in range(150)]
    going = False
    await moving
    assert set(counts) == {5}
