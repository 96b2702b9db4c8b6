"""What is SQLite's alone: shared commits, a full disk, another process that holds the file."""

import asyncio
import sqlite3
import threading

import pytest
from sqlalchemy import text

from glmimage.jobs import (
    FileRecord,
    JobStore,
    NewJob,
    StoreUnavailable,
    endings,
    leases,
    queue,
    sqlite,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def store(tmp_path):
    async with await JobStore.open(f"sqlite:///{tmp_path}/data/store.sqlite3") as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "store.sqlite3"


def new_job(**changes):
    return NewJob("e", {"prompt": "a"}, **changes)


def record(id):
    return FileRecord(id, f"outputs/{id}", "image/png", 1, "a.png", 1.0)


async def test_the_file_is_its_owners_alone(store, path):
    assert path.stat().st_mode & 0o077 == 0


async def test_calls_that_come_together_share_a_commit(store, monkeypatch):
    sizes = []
    run = sqlite._run_batch
    monkeypatch.setattr(sqlite, "_run_batch", lambda c, b: (sizes.append(len(b)), run(c, b)))
    await asyncio.gather(*(store.enqueue(new_job()) for _ in range(100)))
    assert sum(sizes) >= 100  # and perhaps the store's own housekeeping
    assert len(sizes) <= 10
    assert await store.queue_length("e") == 100


async def test_one_that_fails_takes_nobody_along(store):
    await store.add_file(record("taken"))
    calls = [store.add_file(record(id)) for id in ("a", "taken", "b")]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), StoreUnavailable, type(None)]
    assert await store.known_paths([f"outputs/{id}" for id in "ab"]) == {"outputs/a", "outputs/b"}


async def test_a_caller_that_gives_up_disturbs_nobody(store):
    call = asyncio.create_task(store.enqueue(new_job()))
    await asyncio.sleep(0)
    call.cancel()
    job, _ = await store.enqueue(new_job())
    assert (await store.get(job.id)).state == "queued"


async def test_a_full_disk_is_said_in_a_sentence_and_passes(store):
    pages = await store._db.read(lambda c: c.execute(text("PRAGMA page_count")).scalar())
    limit = "PRAGMA max_page_count = {}"
    await store._db.write(lambda c: c.execute(text(limit.format(pages + 20))).scalar())
    with pytest.raises(StoreUnavailable, match="full") as refused:
        for _ in range(200):
            await store.enqueue(NewJob("e", {"prompt": "x" * 3000}))
    assert "Make space" in refused.value.hint
    before = await store.queue_length("e")
    await store._db.write(lambda c: c.execute(text(limit.format(10**6))).scalar())
    await store.enqueue(new_job())
    assert await store.queue_length("e") == before + 1


async def test_a_writer_waits_for_another_process(store, path):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.enqueue(new_job()))
    assert await store.queue_length("e") == 0  # readers do not wait
    assert not waiting.done()
    release = threading.Timer(0.05, other.execute, ["COMMIT"])
    release.start()
    await waiting
    release.join()
    other.close()
    assert await store.queue_length("e") == 1


async def test_a_file_that_stays_locked_is_said_in_a_sentence(store, path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.enqueue(new_job())
    other.close()
    await store.enqueue(new_job())


async def test_a_writer_without_a_connection_tries_the_next_time(path, monkeypatch):
    connect, failures = sqlite._connect, [sqlite3.OperationalError("unable to open database file")]

    def refuse(engine):
        if threading.current_thread().name == "store-writer" and failures:
            raise failures.pop()
        return connect(engine)

    monkeypatch.setattr(sqlite, "_connect", refuse)
    async with await JobStore.open(f"sqlite:///{path}") as store:
        with pytest.raises(StoreUnavailable, match="unable to open"):
            await asyncio.wait_for(store.enqueue(new_job()), 5)
        await asyncio.wait_for(store.enqueue(new_job()), 5)


async def test_a_connection_that_cannot_even_roll_back_is_replaced(store):
    broken = store._db.write(lambda connection: connection.connection.dbapi_connection.close())
    with pytest.raises(StoreUnavailable, match="closed database"):
        await asyncio.wait_for(broken, 5)
    await asyncio.wait_for(store.enqueue(new_job()), 5)


async def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "store.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await JobStore.open(f"sqlite:///{tmp_path}/store.sqlite3")


async def test_only_what_a_power_cut_may_undo_does_not_wait_for_the_disk(store, monkeypatch):
    def mode(connection, *_):
        return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    full, normal = 2, 1
    assert await store._db.write(mode) == full
    monkeypatch.setattr(sqlite, "_MAY_BE_LOST", frozenset({mode}))
    assert await store._db.write(mode) == normal
    # in one commit with something that has to wait, all wait
    calls = [store.add_file(record("a")), *(store._db.write(mode) for _ in range(3))]
    blocker = threading.Event()
    first = asyncio.ensure_future(store._db.write(lambda _: blocker.wait(5)))
    others = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)  # all of them are in the inbox now
    blocker.set()
    assert (await asyncio.gather(first, *others))[2:] == [full] * 3


@pytest.mark.parametrize(("surface", "lost"), [("queue", False), ("run", True), ("stream", True)])
def test_a_submit_is_on_disk_before_it_is_answered(surface, lost):
    new = new_job(surface=surface)
    assert sqlite.may_be_lost(queue.enqueue, (new,)) is lost
    for told in (leases.finish, leases.fail, endings.insert_ended, endings.cancel):
        assert not sqlite.may_be_lost(told, ())
