"""Readiness says what is missing, each thing for itself."""

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from glmimage.config import Settings
from glmimage.files import FilesError
from glmimage.jobs import StoreUnavailable
from glmimage.server import health, storage_check
from glmimage.server.capacity import Capacity

from ..faults.bucket import Bucket


def ready(server, of=None):
    answer = server.stranger.get("/health/ready", params={"of": of} if of else {})
    return answer.status_code, answer.json()


def test_all_is_well(serve):
    server = serve()
    server.until(lambda: ready(server)[0] == 200)
    body = ready(server)[1]
    assert body["checks"] == {"database": "ok", "files": "ok", "workers": "ok"}
    assert body["workers"] == 1


def test_each_stage_needs_a_worker(serve):
    server = serve()
    server.tell(server.worker.awake.clear)
    store = server.store
    server.call(store.worker_seen(server.worker.id, ["prior"], ready=True))
    server.until(lambda: "decode stage" in ready(server)[1].get("reason", ""))
    assert ready(server)[1]["checks"]["database"] == "ok"
    server.call(store.worker_seen("painter", ["decode"], ready=False))
    server.until(lambda: "loading" in ready(server)[1]["reason"])
    assert ready(server, "gateway")[0] == 200
    server.call(store.worker_seen("painter", ["decode"], ready=True))
    server.until(lambda: ready(server)[0] == 200)


def test_whoever_asks_at_once_is_told_of_the_same_workers():
    """Who comes while the store is asked waits for its answer, and takes no older one."""
    num_asked = 0

    class Store:
        async def now(self):
            await asyncio.sleep(0.01)
            return 1000.0

        async def live_workers(self, since):
            nonlocal num_asked
            num_asked += 1
            await asyncio.sleep(0.01)
            return [SimpleNamespace(seen_at=1000.0)]

    async def ask():
        capacity = Capacity(Settings(no_worker_timeout_s=0.001), Store(), live=None)
        await asyncio.sleep(0.01)  # from here on a missing worker is told
        await asyncio.gather(*(capacity.check_workers() for _ in range(5)))

    asyncio.run(ask())
    assert num_asked == 1


def test_files_that_do_not_answer_are_named(serve, monkeypatch):
    server = serve()

    async def broken(*arguments):
        raise FilesError("The bucket is gone.")

    monkeypatch.setattr(server.services.files, "put", broken)
    status, body = ready(server, "gateway")
    assert status == 503
    assert body["checks"] == {
        "database": "ok",
        "files": "No file can be stored. The bucket is gone.",
    }


def test_a_bucket_that_does_not_exist_is_named(serve):
    with Bucket() as bucket:
        server = serve(files_url=bucket.url.replace(bucket.name, "no-such-bucket"))
        status, body = ready(server, "gateway")
    assert status == 503
    assert "No file can be stored. s3://no-such-bucket" in body["reason"]
    assert "there is no such bucket" in body["reason"]


def test_a_bucket_that_cannot_be_written_is_named_until_it_can(serve, monkeypatch):
    monkeypatch.setattr(storage_check, "REMEMBERED_S", 0.0)
    with Bucket() as bucket:
        server = serve(files_url=bucket.url)
        assert ready(server, "gateway")[0] == 200
        bucket.refusing = 403
        status, body = ready(server, "gateway")
        assert status == 503
        assert f"s3://{bucket.name} cannot be used" in body["checks"]["files"]
        bucket.refusing = None
        assert ready(server, "gateway")[0] == 200
        assert stored(server) == []


def test_a_folder_that_cannot_be_written_is_named(serve, monkeypatch):
    server = serve()

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("glmimage.files.local._create", refuse)
    status, body = ready(server, "gateway")
    assert (status, body["checks"]["database"]) == (503, "ok")
    assert body["reason"].startswith("No file can be stored. ")
    assert "permission denied" in body["reason"]


def test_probes_share_one_try_and_leave_nothing(serve, monkeypatch):
    server, tries = serve(), []
    put = server.services.files.put

    async def counted(path, content):
        tries.append(path)
        await asyncio.sleep(0.2)
        return await put(path, content)

    monkeypatch.setattr(server.services.files, "put", counted)
    with ThreadPoolExecutor(4) as probes:
        answers = list(probes.map(lambda _: ready(server, "gateway")[0], range(8)))
    assert (answers, len(tries)) == ([200] * 8, 1)
    assert stored(server) == []


def test_a_silent_bucket_is_not_asked_again_by_every_probe(serve, monkeypatch):
    monkeypatch.setattr(health, "CHECK_S", 0.05)
    monkeypatch.setattr(storage_check, "REMEMBERED_S", 0.0)
    server, tries, over = serve(), [], asyncio.Event()

    async def silent(*arguments):
        tries.append(arguments)
        await over.wait()

    monkeypatch.setattr(server.services.files, "put", silent)
    for _ in range(3):
        assert "no answer within" in ready(server, "gateway")[1]["checks"]["files"]
    assert len(tries) == 1
    server.tell(over.set)


def stored(server):
    async def listed():
        return [info.path async for info in server.files.list()]

    return server.call(listed())


def test_a_database_that_is_gone_is_named(serve, monkeypatch):
    server = serve()

    async def gone():
        raise StoreUnavailable("It is down.")

    monkeypatch.setattr(server.services.store, "next_webhook_at", gone)
    status, body = ready(server, "gateway")
    assert status == 503
    assert body["reason"] == "The job store does not answer. It is down."
    assert body["checks"]["files"] == "ok"


@pytest.mark.parametrize("of", ["workers", "x"])
def test_a_question_that_is_none_is_refused(server, of):
    assert ready(server, of)[0] == 400
