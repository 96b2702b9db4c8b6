"""What the gateway's log says of requests: the id on each line, and no prompt unless asked for."""

import contextlib

import pytest
from sqlalchemy.exc import IntegrityError

from glmimage.jobs import StoreUnavailable
from glmimage.policy import open_policy

from .conftest import ENDPOINT

SECRET = "a purple walrus"
SMALL = {"image_size": "square"}
WAYS = {
    "queue": (f"/queue/{ENDPOINT}?prompt={SECRET}", SMALL),
    "run": (f"/run/{ENDPOINT}", SMALL),
    "stream": (f"/run/{ENDPOINT}/stream", SMALL),
    "openai": ("/v1/images/generations", {"size": "512x512"}),
    "zai": ("/paas/v4/images/generations", {"model": "glm-image", "size": "512x512"}),
    "refused": (f"/queue/{ENDPOINT}", {"prompt": f"{SECRET}, naked children"}),
    "invalid": (f"/queue/{ENDPOINT}", {"seed": "many"}),
    "no reference": (f"/queue/{ENDPOINT}/image-to-image", {}),
}


def ask(server, way):
    path, more = WAYS[way]
    return server.http.post(path, json={"prompt": SECRET, **more})


def of_requests(log):
    return [line for line in log.lines if line["event"].startswith("Request ")]


@pytest.mark.parametrize("way", WAYS)
def test_prompts_are_not_written(log, server, way):
    log.set_up(level="debug")
    ask(server, way)
    (line,) = of_requests(log)
    assert line["request_id"]
    assert "purple" not in log.text


def test_prompts_are_written_when_asked_for(log, serve):
    server = serve(log_prompts=True)
    log.set_up()
    for way in WAYS:
        ask(server, way)
    lines = of_requests(log)
    assert len(lines) == len(WAYS)
    for line in lines:
        job = server.call(server.store.get(line["request_id"]))
        assert SECRET in line["prompt"]
        assert line["prompt"] == job.input["prompt"]


@pytest.mark.parametrize("way", ["queue", "no reference"])
def test_a_mistake_shows_no_prompt(log, serve, monkeypatch, way):
    """Of the database, with a row in its message; after a refusal, which repeats the input."""
    server = serve()
    log.set_up(level="debug")
    wrong = IntegrityError("INSERT INTO jobs", {"input": SECRET}, Exception("no such row"))

    async def fail(*_, **__):
        raise wrong

    monkeypatch.setattr(server.store, "enqueue", fail)
    monkeypatch.setattr(server.store, "insert_failed", fail)
    assert ask(server, way).status_code == 500
    (line,) = [line for line in log.lines if line["level"] == "error"]
    assert "IntegrityError" in line["exception"]
    assert line["request_id"]
    assert "purple" not in log.text


@pytest.mark.parametrize("error", [StoreUnavailable("It is away."), RuntimeError("a mistake")])
def test_a_webhook_that_fails_inside_is_told_with_its_request(log, serve, monkeypatch, error):
    server = serve(open_policy(allowed_webhooks=["127.0.0.1"]))
    log.set_up()

    async def fail(webhook):
        raise error

    monkeypatch.setattr(server.app.webhooks, "_attempt", fail)
    request_id = server.submit(query={"fal_webhook": "http://127.0.0.1:9/"})["request_id"]

    def told():
        with contextlib.suppress(ValueError):  # a line that is being written
            return [line for line in log.lines if "ebhook " in line["event"]]

    assert server.until(told)[0]["request_id"] == request_id
