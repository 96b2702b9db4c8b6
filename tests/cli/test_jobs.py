"""`glmimage jobs` against a real store: what is shown, and what is refused in a sentence."""

import json
import os
import time

import pytest

from glmimage.jobs import FileRecord, NewJob

from .test_accounts import printed, refused, with_store

BODY = {"detail": [{"loc": ["body"], "msg": "It broke.", "type": "internal_server_error"}]}


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GLMIMAGE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def ids():
    """Make one job of each kind: done, dead, running, waiting."""
    return with_store(_fill)


async def _fill(store):
    found = {}
    for name in ("done", "dead", "running", "queued"):
        new = NewJob("fal-ai/glm-image", {"prompt": name}, max_attempts=1, webhook_url="http://h")
        found[name] = (await store.enqueue(new))[0].id
        if name == "queued":
            break
        (claim,) = await store.claim("worker-1", ["prior", "decode"], 1, 60)
        await store.log(claim.job.id, "step 1/2")
        if name == "done":
            record = FileRecord("f", "outputs/f", "image/png", 3, "a.png", 1.0, job_id=found[name])
            await store.finish(claim, {"images": []}, [record])
        elif name == "dead":
            await store.fail(claim, 500, BODY, retryable=True)
    return found


def states(capsys, *options):
    lines = json.loads(printed(capsys, "jobs", "list", "--json", *options))
    return {line["id"]: "dead" if line["dead"] else line["state"] for line in lines}


def test_the_list_shows_every_state(ids, capsys):
    text = printed(capsys, "jobs", "list")
    assert text.splitlines()[0].split() == [
        *("id", "state", "stage", "attempts", "pictures", "asked", "took")
    ]
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(ids.values())[::-1]
    for words in ("0 % by worker-1", "It broke.", "1/1", "1 of 1024x1024"):
        assert words in text
    assert states(capsys) == {id: state for state, id in ids.items()}
    for state, id in ids.items():
        assert list(states(capsys, "--state", state)) == [id]
    assert len(states(capsys, "--limit", "2")) == 2
    assert states(capsys, "--endpoint", "other") == {}
    assert printed(capsys, "jobs", "list", "--state", "cancelled") == "No request is cancelled.\n"


def test_one_is_shown_with_its_log_and_webhook(ids, capsys):
    text = printed(capsys, "jobs", "show", ids["dead"])
    for words in ("step 1/2", "It broke.", "http://h", "pending, 0 attempts", "dead"):
        assert words in text
    document = json.loads(printed(capsys, "jobs", "show", ids["queued"], "--json"))
    assert (document["position"], document["input"]) == (0, {"prompt": "queued"})
    assert "outputs/f" in printed(capsys, "jobs", "show", ids["done"])
    assert "no request 'x'" in refused(capsys, "jobs", "show", "x")


def test_a_dead_one_is_retried(ids, capsys):
    assert printed(capsys, "jobs", "retry", "--dead") == f"{ids['dead']}  queued again\n"
    assert states(capsys)[ids["dead"]] == "queued"
    assert printed(capsys, "jobs", "retry", "--dead") == "There is none.\n"
    assert "it is done: only failed" in ended_badly(capsys, "jobs", "retry", ids["done"])
    assert "by their ids" in refused(capsys, "jobs", "retry")


def test_cancelling_says_what_it_did(ids, capsys):
    lines = json.loads(printed(capsys, "jobs", "cancel", ids["queued"], ids["done"], "x", "--json"))
    assert [line["outcome"] for line in lines] == [
        "cancelled",
        "it is done: it has ended",
        "there is no such request",
    ]
    assert [line["ok"] for line in lines] == [True, False, False]
    assert states(capsys)[ids["queued"]] == "cancelled"
    printed(capsys, "jobs", "cancel", ids["running"])
    assert with_store(lambda store: store.get(ids["running"])).cancel_requested


def test_what_has_ended_is_deleted_with_its_pictures(ids, capsys):
    assert "--yes" in refused(capsys, "jobs", "purge", ids["done"])
    assert printed(capsys, "jobs", "purge", "--yes", ids["done"]) == f"{ids['done']}  deleted\n"
    assert with_store(lambda store: store.get(ids["done"])) is None
    assert with_store(lambda store: store.get_file("f")).expires <= time.time()
    assert "cancel it first" in ended_badly(capsys, "jobs", "purge", "--yes", ids["running"])
    tomorrow = "2999-01-01"
    out = printed(capsys, "jobs", "purge", "--yes", "--before", tomorrow)
    assert out == "Deleted 1 requests.\n"
    assert states(capsys).keys() == {ids["running"], ids["queued"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--state", "gone"], "--state is 'gone'; it must be preparing"),
        (["purge", "--yes", "--before", "soon"], "--before is 'soon'"),
        (["purge", "--yes"], "older ones with --before"),
        (["retry", "--dead", "x"], "by their ids, or all dead ones"),
    ],
)
def test_what_cannot_be_meant_is_refused(ids, capsys, arguments, words):
    assert words in refused(capsys, "jobs", *arguments)


def test_without_a_store_the_way_to_one_is_said(capsys):
    assert "glmimage serve" in refused(capsys, "jobs", "list")


def ended_badly(capsys, *arguments):
    from glmimage.cli import run

    assert run(list(arguments)) == 2
    return capsys.readouterr().err
