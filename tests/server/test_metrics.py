"""The numbers move, and strangers do not see them."""

import re
from pathlib import Path

import pytest

POLICY_PAGE = Path(__file__).parents[2] / "docs" / "policy.md"


def numbers(server):
    answer = server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_refusals_are_counted_by_kind(serve):
    server = serve()
    server.result(server.submit("a nude woman")["request_id"])
    server.result(server.submit("p0rn")["request_id"])
    server.result(server.submit("a swastika")["request_id"])
    found = numbers(server)
    assert found['glmimage_policy_refusals_total{kind="sexual"}'] == 2
    assert found['glmimage_policy_refusals_total{kind="hate"}'] == 1
    assert found["glmimage_queue_length"] == 0


def test_flagged_pictures_are_counted_by_worker(serve):
    server = serve()
    info = {"num_checked": 7, "num_flagged": 2}
    server.call(server.store.worker_seen("painter", info=info))
    found = numbers(server)
    assert found['glmimage_pictures_checked_total{worker="painter"}'] == 7
    assert found['glmimage_pictures_flagged_total{worker="painter"}'] == 2


def test_what_happens_beside_the_requests_is_counted(serve):
    server = serve()
    server.services.counters.webhooks["delivered"] += 3
    server.services.counters.swept["expired"] += 1
    found = numbers(server)
    assert found['glmimage_webhook_attempts_total{outcome="delivered"}'] == 3
    assert found['glmimage_swept_total{kind="expired"}'] == 1


def test_strangers_see_nothing(server):
    assert server.stranger.get("/metrics").status_code == 401


def test_the_documented_alerts_ask_for_metrics_that_exist(serve):
    server = serve()
    server.submit("a nude woman")
    server.services.counters.webhooks["failed"] += 1
    server.call(server.store.worker_seen("painter", info={"num_checked": 1, "num_flagged": 1}))
    named = set(re.findall(r"\bglmimage_\w+", POLICY_PAGE.read_text("utf-8")))
    exported = {name.partition("{")[0] for name in numbers(server)}
    assert named
    assert named <= exported


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_it_is_only_read(server, method):
    assert getattr(server.http, method)("/metrics").status_code == 405
