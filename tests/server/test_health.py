"""Readiness says what is missing, each thing for itself."""

import pytest

from glmimage.files import FilesError
from glmimage.jobs import StoreUnavailable


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


def test_files_that_do_not_answer_are_named(serve, monkeypatch):
    server = serve()

    async def broken(path):
        raise FilesError("The bucket is gone.")

    monkeypatch.setattr(server.services.files, "info", broken)
    status, body = ready(server, "gateway")
    assert status == 503
    assert body["checks"] == {
        "database": "ok",
        "files": "The file store does not answer. The bucket is gone.",
    }


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
