"""The store is away for a while, or busy, or its clock jumps: nobody loses by that."""

import asyncio
import time
from types import SimpleNamespace

import asyncpg
import pytest
from sqlalchemy import text

from glmimage.jobs import JobStore, StoreUnavailable, clock, upkeep
from glmimage.jobs.postgres_sessions import SESSION

pytestmark = pytest.mark.anyio
LEASE_S = 10.0
GRACE_S = LEASE_S / 5 + 2


@pytest.fixture
def moment(monkeypatch):
    """Give the time of this machine's monotonic clock, as the watch sees it, in a list."""
    now = [1000.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


async def lose_one(store, new_job):
    """Have a worker die over a job; return the function that looks at its state."""
    await store.enqueue(new_job())
    (claim,) = await store.claim("dead", ["prior"], 1, 0.001)
    await asyncio.sleep(0.01)

    async def state():
        return (await store.get(claim.job.id)).state

    return state


async def test_leases_are_left_alone_for_a_while_after_a_gap(store, new_job, moment):
    """Also at the start."""
    for gap_s in (0.0, LEASE_S / 2 + 1.1):
        state = await lose_one(store, new_job)
        moment[0] += gap_s
        back = moment[0]
        while moment[0] - back < GRACE_S:
            await store.keep_order(lease_s=LEASE_S)
            assert await state() == "running"
            moment[0] += 1.0
        await store.keep_order(lease_s=LEASE_S)
        assert await state() == "queued"


async def test_a_pause_as_always_frees_what_is_lost(store, new_job, moment):
    await store.keep_order(lease_s=LEASE_S)
    moment[0] += LEASE_S / 2
    await store.keep_order(lease_s=LEASE_S)
    state = await lose_one(store, new_job)
    moment[0] += LEASE_S / 2
    await store.keep_order(lease_s=LEASE_S)
    assert await state() == "queued"


async def test_a_store_that_only_answers_is_as_good_as_away(store, new_job, moment, monkeypatch):
    """A full disk: reads go on, and no heartbeat is written."""
    await store.keep_order(lease_s=LEASE_S)
    state = await lose_one(store, new_job)

    async def full(*arguments):
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(store._db, "write", full)
        for _ in range(8):
            moment[0] += 1.0
            with pytest.raises(StoreUnavailable):
                await store.keep_order(lease_s=LEASE_S)
    moment[0] += 1.0
    await store.keep_order(lease_s=LEASE_S)
    assert await state() == "running"


async def test_an_outage_longer_than_a_lease_takes_nothing_from_who_lives(
    database_url, store, new_job, monkeypatch
):
    """The leader is back before the worker, which beats only now and then."""
    lease_s, away_s = 2.0, 3.0
    job, _ = await store.enqueue(new_job())
    async with await JobStore.open(database_url, create=False) as worker:
        (claim,) = await worker.claim("lives", ["prior"], 1, lease_s)
        until = [[0.0], [0.0]]
        for each, cut_until in zip((store, worker), until, strict=True):
            cut_off(each, cut_until, monkeypatch)
        duties = [
            asyncio.create_task(every(0.2, lambda: store.keep_order(lease_s=lease_s))),
            asyncio.create_task(every(lease_s / 5, lambda: worker.heartbeat([claim], lease_s), 1)),
        ]
        await asyncio.sleep(2.8)  # past the first rounds, in which nothing is freed
        for cut_until, later_s in zip(until, (0.0, 1.0), strict=True):
            cut_until[0] = time.monotonic() + away_s + later_s
        await asyncio.sleep(away_s + 3.5)
        for duty in duties:
            duty.cancel()
        assert (await store.get(job.id)).fence == claim.fence
        assert (await worker.finish(claim, {"images": []})).state == "done"


def cut_off(store, until, monkeypatch):
    """Let a store's database fail up to a time."""
    for name in ("read", "write"):
        run = getattr(store._db, name)

        async def fail_or_run(*arguments, run=run, **options):
            if time.monotonic() < until[0]:
                raise StoreUnavailable("It is away.")
            return await run(*arguments, **options)

        monkeypatch.setattr(store._db, name, fail_or_run)


async def every(pause_s, duty, after_failure_s=0.0):
    while True:
        try:
            await duty()
        except StoreUnavailable:
            await asyncio.sleep(after_failure_s)
        await asyncio.sleep(pause_s)


async def test_deadlines_wait_for_a_clock_that_can_be_trusted(store, new_job, monkeypatch):
    job, _ = await store.enqueue(new_job(start_deadline=time.time() + 1800))
    ahead, real = [0.0], upkeep.store_time
    for module in ("upkeep", "endings"):
        monkeypatch.setattr(
            f"glmimage.jobs.{module}.store_time", lambda connection: real(connection) + ahead[0]
        )
    now = store.now

    async def jumping():
        return await now() + ahead[0]

    monkeypatch.setattr(store, "now", jumping)
    await store.keep_order()
    ahead[0] = 3600.0
    await store.keep_order()
    assert (await store.get(job.id)).state == "queued"


async def test_webhooks_wait_no_longer_when_the_clock_is_put_back(store, new_job):
    job, _ = await store.enqueue(new_job(webhook_url="http://h"))
    await store.cancel(job.id)
    (webhook,) = await store.due_webhooks()
    now = await store.now()
    await store.webhook_failed(webhook.id, "It is down.", now + 3600)
    await store.keep_order(longest_delay_s=4000.0)
    assert await store.next_webhook_at() == now + 3600
    await store.keep_order(longest_delay_s=400.0)
    assert now + 390 < await store.next_webhook_at() < now + 460


async def test_what_is_delivered_stays_so(store, new_job):
    """A sender that is late finds that another one has done it."""
    job, _ = await store.enqueue(new_job(webhook_url="http://h"))
    await store.cancel(job.id)
    (webhook,) = await store.due_webhooks()
    await store.webhook_delivered(webhook.id, 200)
    await store.webhook_failed(webhook.id, "It timed out.", await store.now())
    (noted,) = await store.list_webhooks(job.id)
    assert (noted.state, noted.next_attempt, noted.attempts) == ("delivered", None, 1)


async def test_who_resigns_lets_another_one_lead(database_url, store):
    async with await JobStore.open(database_url, create=False) as other:
        assert [await store.lead(), await other.lead()] == [True, False]
        await store.resign()
        assert not await store.lead()
        for _ in range(40):  # the server may take a moment to see it
            if await other.lead():
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("nobody leads")
        await asyncio.sleep(2.0)
        assert not await store.lead()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_statement_sent_while_the_server_closes_is_no_surprise(store, monkeypatch):
    """asyncpg's answer to that belongs to none of its usual errors."""
    closing = asyncpg.InternalClientError("cannot switch to state 12; another is in progress")
    assert await store.lead()

    async def fail(*arguments):
        raise closing

    with monkeypatch.context() as broken:
        broken.setattr(asyncpg.Connection, "fetchval", fail)
        assert not await store.lead()
    for _ in range(40):  # over a new session, once the server has closed the old one
        if await store.lead():
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("nobody leads")
    tries = []

    def read(connection):
        tries.append(connection)
        if len(tries) == 1:
            raise closing
        return 5

    assert await store._db.snapshot(read) == 5 and len(tries) == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_connections_that_are_all_busy_are_said_in_a_sentence(store, monkeypatch):
    monkeypatch.setattr(store._db._readers.sync_engine.pool, "_timeout", 0.1)
    sleep = lambda connection: connection.execute(text("SELECT pg_sleep(2)"))  # noqa: E731
    busy = [asyncio.create_task(store._db.read(sleep)) for _ in range(8)]
    await asyncio.sleep(1.0)
    with pytest.raises(StoreUnavailable, match="busy"):
        await store.now()
    await asyncio.gather(*busy)


async def test_priors_that_go_while_they_are_looked_up_are_none(store, monkeypatch):
    from glmimage.jobs import Prior, reuse

    monkeypatch.setattr(reuse, "read_priors", lambda connection, ids: {})
    async with asyncio.timeout(60):
        await store._db.write(insert_prior, Prior(0, (1, 1), (1,)))
    assert await store.find_cached_prior("k") == ()


def insert_prior(connection, prior):
    row = {"i": prior.image_index, "h": 1, "w": 1, "t": b"\1\0\0\0"}
    connection.execute(
        text(
            "INSERT INTO priors (job_id, image_index, prior_key, grid_height, grid_width, "
            "prior_token_ids, created_at) VALUES ('j', :i, 'k', :h, :w, :t, 1.0)"
        ),
        row,
    )


async def test_results_that_are_over_are_looked_for_by_a_read(store, new_job, monkeypatch):
    job, _ = await store.enqueue(new_job())
    await store.cancel(job.id)

    async def refuse(*arguments):
        raise AssertionError("it would keep writers waiting")

    with monkeypatch.context() as patch:
        patch.setattr(store._db, "write", refuse)
        assert await store.purge_results(0.0) == 0
    found = await store._db.read(upkeep.results_due, 0.0, time.time() + 60)
    assert found.ids == [job.id]
    await store.retry(job.id)  # since it was found
    assert await store._db.write(upkeep.purge_results, found.ids) == 0
    assert (await store.get(job.id)).input is not None


async def test_webhooks_go_with_their_job(store, new_job):
    jobs = [(await store.enqueue(new_job(webhook_url="http://h")))[0] for _ in range(2)]
    for job in jobs:
        await store.cancel(job.id)
    assert await store.purge_jobs([jobs[0].id]) == [jobs[0].id]
    assert [hook.job_id for hook in await store.list_webhooks()] == [jobs[1].id]
    await store.purge_history(time.time() + 60)
    assert await store.list_webhooks() == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_line_that_dies_in_a_transaction_locks_its_job_no_longer_than_set(
    database_url, new_job, monkeypatch
):
    """Where something between answers the keepalives, the server sees a client that is idle."""
    assert SESSION["idle_in_transaction_session_timeout"] == "30s"
    monkeypatch.setitem(SESSION, "idle_in_transaction_session_timeout", "500ms")
    async with await JobStore.open(database_url, create=False) as store:
        state = await lose_one(store, new_job)
        async with store._db._writer.connect() as parted:
            await parted.execute(text("UPDATE jobs SET progress = 0.5"))
            await store.recover_leases(time.time())
            assert await state() == "running"
            await asyncio.sleep(1.0)
            await store.recover_leases(time.time())
            assert await state() == "queued"
            await parted.invalidate()
