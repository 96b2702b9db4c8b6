"""The kernel tells of a write to the folder; without it a waiting store looks for itself."""

import asyncio
import sys

import pytest

from glmimage.jobs import JobStore, NewJob, folder_watch, sqlite
from glmimage.jobs.folder_watch import FolderWatch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's"),
]
LONG_S = 30.0


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def watch(tmp_path):
    (tmp_path / "known").touch()
    watch = FolderWatch(tmp_path)
    yield watch
    watch.close()


async def test_all_who_sleep_are_woken(watch, tmp_path):
    assert watch.works
    sleeping = [asyncio.create_task(watch.sleep(LONG_S)) for _ in range(3)]
    await asyncio.sleep(0)
    (tmp_path / "known").write_text("more")
    assert await asyncio.gather(*sleeping) == [True, True, True]


async def test_what_was_written_while_nobody_slept_is_heard_once(watch, tmp_path):
    assert not watch.heard()
    (tmp_path / "new").write_text("a file")
    assert watch.heard()
    assert not watch.heard()
    assert not await watch.sleep(0.01)


async def test_a_write_before_the_sleep_ends_it_at_once(watch, tmp_path):
    (tmp_path / "known").write_text("more")
    assert await watch.sleep(LONG_S)
    assert not await watch.sleep(0.01)


async def test_one_who_leaves_lets_the_others_sleep(watch, tmp_path):
    leaving = asyncio.create_task(watch.sleep(LONG_S))
    staying = asyncio.create_task(watch.sleep(LONG_S))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    (tmp_path / "known").write_text("more")
    assert await staying


async def test_closing_wakes_and_then_only_sleeps(watch):
    sleeping = asyncio.create_task(watch.sleep(LONG_S))
    await asyncio.sleep(0)
    watch.close()
    assert await sleeping
    assert not watch.works
    assert not await watch.sleep(0.01)


def test_a_folder_that_cannot_be_watched(tmp_path):
    assert not FolderWatch(tmp_path / "missing").works


@pytest.mark.parametrize("told", [True, False])
async def test_a_store_wakes_for_what_another_wrote(tmp_path, monkeypatch, told):
    """Told, it does not look by itself; else it does."""
    monkeypatch.setattr(sqlite, "TOLD_POLL_S", LONG_S)
    monkeypatch.setattr("glmimage.jobs.store.SAFETY_POLL_S", LONG_S)
    if not told:
        monkeypatch.setattr(folder_watch, "_open_inotify", lambda folder: None)
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    async with await JobStore.open(url) as waiting, await JobStore.open(url) as writing:
        assert waiting._db._folder.works == told
        for _ in range(3):
            found = asyncio.create_task(waiting.wait_for_work(["prior"], LONG_S))
            await asyncio.sleep(0.2)
            job, _ = await writing.enqueue(NewJob("e", {"prompt": "a"}))
            async with asyncio.timeout(LONG_S / 2):
                assert await found
            await writing.cancel(job.id)
