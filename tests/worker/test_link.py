"""Claims that are lost on their way, and a job that comes back: the store's half of a worker.

The store is real; the tests are the painting thread.
"""

import asyncio
import threading
import time
from queue import Empty, SimpleQueue
from types import SimpleNamespace

import pytest
from PIL import Image

from glmimage.config import Settings
from glmimage.errors import GlmImageError
from glmimage.jobs import StoreUnavailable
from glmimage.policy.picture_check import PictureChecker
from glmimage.types import GenerationRequest, PictureReady
from glmimage.worker.link import Begin, Drop, Profile, StoreLink

from .conftest import Judge, Service

SOON_S = 20


@pytest.fixture
def store(tmp_path):
    return Service(Settings(data_dir=tmp_path, lease_s=60.0))


@pytest.fixture
def link(store):
    """Open a link that does not claim yet."""
    profile = Profile(("prior", "decode"), "toy")
    opened = StoreLink(store.settings, profile, SimpleQueue(), PictureChecker(0.5, Judge()))
    opened.open()
    yield opened
    if opened._thread.is_alive():
        opened.close(5)


def begin(link):
    message = link.inbox.get(timeout=SOON_S)
    assert isinstance(message, Begin)
    return message


def until(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_that_came_back_is_not_dropped_for_its_first_claim(store, link, monkeypatch):
    """The engine would abort the second claim's painting, and nobody would ever end the job."""
    away, refused, finish = threading.Event(), threading.Event(), link.store.finish

    async def finish_when_there(*args):
        if away.is_set():
            refused.set()
            raise StoreUnavailable("The database is away.")
        return await finish(*args)

    monkeypatch.setattr(link.store, "finish", finish_when_there)
    link.start_claiming("r", {})
    job_id = store.submit()
    assert begin(link).claim.fence == 1
    first = link.in_hand[job_id]
    away.set()
    picture = PictureReady(job_id, 0, Image.new("RGB", (512, 512)), 7, {})
    link.send(job_id, picture)
    assert refused.wait(SOON_S)

    store("recover_leases", time.time() + 1000)
    assert link.inbox.get(timeout=SOON_S) == Drop(job_id)
    assert begin(link).claim.fence == 2
    away.clear()
    until(first.task.done)
    with pytest.raises(Empty):
        link.inbox.get(timeout=0.2)
    link.send(job_id, picture)
    job = store.wait(job_id)
    assert (job.state, job.fence) == ("done", 2)


def test_a_job_that_another_worker_has_is_told_with_its_id(store, link, log, monkeypatch):
    log.set_up()
    link.start_claiming("r", {})
    job_id = store.submit()
    begin(link)

    async def lost(claims, lease_s):
        return SimpleNamespace(lost={claim.job.id for claim in claims}, cancelled=())

    monkeypatch.setattr(link.store, "heartbeat", lost)
    asyncio.run_coroutine_threadsafe(link._beat(), link._loop).result(SOON_S)
    (line,) = [line for line in log.lines if "another worker" in line["event"]]
    assert line["request_id"] == job_id


def test_a_claim_on_its_way_when_the_worker_ends_is_handed_back(store, link, monkeypatch):
    """A transaction goes on when the one who waits for it leaves."""
    asked, written = threading.Event(), threading.Event()

    def transaction(*args):
        asked.set()
        time.sleep(0.5)
        claims = store("claim", *args)
        written.set()
        return claims

    async def claim(*args):
        return await link._loop.run_in_executor(None, transaction, *args)

    monkeypatch.setattr(link.store, "claim", claim)
    job_id = store.submit(max_attempts=1)
    link.start_claiming("r", {})
    assert asked.wait(SOON_S)
    assert link.close(10)
    assert written.wait(SOON_S)
    job = store("get", job_id)
    assert (job.state, job.worker_id, job.attempt, job.fence) == ("queued", None, 0, 1)
    assert store("live_workers", 0) == []


def test_a_claim_that_comes_after_the_stop_is_handed_back_at_once(store, link, monkeypatch):
    """What is in hand may still be painted for a while."""
    asked, stopped, claim = threading.Event(), threading.Event(), link.store.claim

    async def claim_late(*args):
        asked.set()
        await link._loop.run_in_executor(None, stopped.wait)
        return await claim(*args)

    link.start_claiming("r", {})
    held = store.submit(max_attempts=1)
    assert begin(link).claim.job.id == held
    monkeypatch.setattr(link.store, "claim", claim_late)
    job_id = store.submit(max_attempts=1)
    assert asked.wait(SOON_S)
    link.stop_claiming()
    stopped.set()
    job = store.wait(job_id, lambda job: job.fence == 1 and job.worker_id is None)
    assert (job.state, job.attempt) == ("queued", 0)
    assert store("get", held).worker_id == link.profile.id


def test_a_claim_whose_answer_is_lost_is_handed_back(store, link, monkeypatch):
    """Without the wait for a lease, and without the loss of an attempt."""
    lost, claim = [], link.store.claim

    async def claim_unheard(*args):
        claims = await claim(*args)
        if claims and not lost:
            lost.extend(claims)
            raise StoreUnavailable("The connection broke.")
        return claims

    monkeypatch.setattr(link.store, "claim", claim_unheard)
    link.start_claiming("r", {})
    job_id = store.submit(max_attempts=1)
    claim = begin(link).claim
    assert lost[0].job.id == claim.job.id == job_id
    assert (claim.fence, claim.attempt) == (2, 1)


def test_more_is_asked_for_a_moment_after_a_claim(store, link, monkeypatch):
    """What was claimed is begun meanwhile."""
    answered, pauses, claim = [], [], link.store.claim

    async def claim_one(worker, stages, room, *args):
        pauses.extend(time.monotonic() - at for at in answered[-1:])
        claims = await claim(worker, stages, 1, *args)
        answered.append(time.monotonic())
        return claims

    monkeypatch.setattr(link.store, "claim", claim_one)
    for _ in range(3):
        store.submit()
    link.start_claiming("r", {})
    for _ in range(3):
        begin(link)
    assert len(pauses) == 2 and min(pauses) > 0.008


def test_who_hears_of_the_loss_while_storing_leaves_no_file(store, link, monkeypatch):
    async def away(*args):
        raise StoreUnavailable("The database is away.")

    def files():
        return list(store.settings.data_dir.rglob("outputs/*/*"))

    monkeypatch.setattr(link.store, "report", away)
    link.start_claiming("r", {})
    job_id = store.submit()
    begin(link)
    job = link.in_hand[job_id]
    link.tell(job_id, "step 1/2", 0.5)
    link.send(job_id, PictureReady(job_id, 0, Image.new("RGB", (512, 512)), 7, {}))
    until(files)
    link._loop.call_soon_threadsafe(link.drop, job_id)
    until(job.task.done)
    assert files() == []


def test_tokens_that_cannot_be_counted_cost_no_picture(link, caplog):
    """The checkpoint has been deleted while the worker ran."""

    def load_prompt():
        raise GlmImageError("processor is not there.")

    link.load_prompt = load_prompt
    assert link.count_tokens(GenerationRequest("a sign", width=512, height=512)) is None
    assert "processor is not there" in caplog.text
