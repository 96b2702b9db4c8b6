"""The kernel tells of what was written; without it a waiting store looks for itself."""

import asyncio
import shutil
import sys

import pytest

from glmimage.jobs import JobStore, NewJob, notifications, sqlite
from glmimage.jobs.moments import EVERYTHING, Moments
from glmimage.jobs.notifications import Notifications

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's"),
]
LONG_S = 30.0


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Heard(list):
    async def until(self, *topics):
        async with asyncio.timeout(LONG_S):
            while sorted(self) != sorted(topics):
                await asyncio.sleep(0.001)


@pytest.fixture
async def pair(tmp_path):
    heard = Heard(), Heard()
    both = [Notifications(tmp_path / "notify", one.append) for one in heard]
    await heard[0].until(EVERYTHING)  # the second one has tried whether the kernel tells
    heard[0].clear()
    yield *both, *heard
    for one in both:
        one.close()


async def test_all_are_told_each_topic_once(pair):
    one, other, heard, heard_by_other = pair
    assert one.works and other.works
    for _ in range(3):
        one.send(["change"])
    one.send(["work"])
    await heard.until("change", "work")
    await heard_by_other.until("change", "work")
    other.send(["work"])
    await heard.until("change", "work", "work")


async def test_a_folder_that_is_emptied_is_filled_again(pair, tmp_path):
    one, _, _, heard = pair
    for file in (tmp_path / "notify").iterdir():
        file.unlink()
    one.send(["cancel"])
    await heard.until("cancel")


async def test_a_folder_that_is_gone_tells_nothing_any_more(pair, tmp_path):
    one, _, heard, _ = pair
    shutil.rmtree(tmp_path / "notify")
    await heard.until(EVERYTHING)  # those who wait look for themselves from now on
    assert not one.works
    one.send(["change"])


async def test_who_is_closed_is_told_nothing(pair):
    one, other, heard, heard_by_other = pair
    one.close()
    assert not one.works
    other.send(["change"])
    await heard_by_other.until("change")
    assert not heard


def test_events_that_were_lost_may_have_been_any():
    lost = notifications._HEAD.pack(-1, notifications._OVERFLOW, 0, 0)
    assert list(notifications._topics(lost)) == [EVERYTHING]


async def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert not Notifications(tmp_path / "file" / "notify", print).works


async def test_a_kernel_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(Notifications, "send", lambda self, topics: None)
    assert not Notifications(tmp_path / "notify", print).works


async def test_topics_wake_those_who_wait_for_them():
    moments = Moments()

    async def woken_by(told):
        waiting = {
            topic: asyncio.create_task(moments.wait(topic, moments[topic], LONG_S))
            for topic in ("change", "work", "cancel")
        }
        await asyncio.sleep(0)
        moments.tell(told)
        await asyncio.sleep(0.01)
        woken = {topic for topic, task in waiting.items() if task.done()}
        for task in waiting.values():
            task.cancel()
        return woken

    assert await woken_by("change") == {"change"}
    assert await woken_by("work") == {"change", "work"}
    assert await woken_by("cancel") == {"change", "cancel"}
    assert await woken_by(EVERYTHING) == {"change", "work", "cancel"}


async def test_what_is_told_before_the_wait_ends_it_at_once():
    moments = Moments()
    before = moments["work"]
    moments.tell("work")
    assert await moments.wait("work", before, LONG_S)
    assert not await moments.wait("work", moments["work"], 0.01)


@pytest.mark.parametrize("told", [True, False])
async def test_a_store_wakes_for_what_another_wrote(tmp_path, monkeypatch, told):
    """Told, it does not look by itself; else it does."""
    monkeypatch.setattr("glmimage.jobs.store.SAFETY_POLL_S", LONG_S)
    if told:
        monkeypatch.setattr(sqlite.SqliteDatabase, "_data_version", None)
    else:
        monkeypatch.setattr(notifications, "_open_inotify", lambda folder: None)
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    async with await JobStore.open(url) as waiting, await JobStore.open(url) as writing:
        assert waiting._db._notifications.works == told
        for _ in range(3):
            found = asyncio.create_task(waiting.wait_for_work(["prior"], LONG_S))
            await asyncio.sleep(0.2)
            job, _ = await writing.enqueue(NewJob("e", {"prompt": "a"}))
            async with asyncio.timeout(LONG_S / 2):
                assert await found
            await writing.cancel(job.id)


async def test_a_write_wakes_nobody_it_does_not_concern(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    async with await JobStore.open(url) as waiting, await JobStore.open(url) as writing:
        job, _ = await writing.enqueue(NewJob("e", {"prompt": "a"}))
        await asyncio.sleep(0.05)
        work, change = (waiting._db.moment(topic) for topic in ("work", "change"))
        await writing.log(job.id, "a line")
        async with asyncio.timeout(LONG_S):
            while waiting._db.moment("change") == change:
                await asyncio.sleep(0.001)
        assert waiting._db.moment("work") == work
