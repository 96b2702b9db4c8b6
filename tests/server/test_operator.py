"""What whoever runs the service sees of everybody, and nobody else does."""

import httpx
import pytest

APP = "fal-ai/glm-image"
OPERATOR = "/platform/v1/operator"
PATHS = ["queue", "workers", "failures", "usage", "webhooks"]
BODY = {"prompt": "a square", "image_size": "square"}


@pytest.fixture
def operated(serve):
    """Serve with the tests' key as operator, and an ordinary key that has used the server too."""
    server = serve(operator_keys="owner, tests")
    text, server.other_record = server.call(server.store.create_key("poster team"))
    server.other = {"authorization": f"Key {text}"}
    server.http.post(f"/run/{APP}", json=BODY)
    for prompt in ("one", "two", "crash"):
        server.http.post(f"/run/{APP}", json={**BODY, "prompt": prompt}, headers=server.other)
    server.http.post(f"/run/{APP}", json={"prompt": "x" * 5000}, headers=server.other)
    return server


def get(server, path, **query):
    answer = server.http.get(f"{OPERATOR}/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_operator_sees_everybody(operated):
    rows = {row["key"]: row for row in get(operated, "usage")["usage"]}
    assert {key: row["num_requests"] for key, row in rows.items()} == {
        "tests": 1,
        "poster team": 2,
    }
    assert rows["poster team"]["cost_total"] == pytest.approx(2 * 0.262144 * 0.15, rel=1e-3)

    invalid, crashed = get(operated, "failures")["failures"]
    assert (invalid["status_code"], invalid["key"]) == (422, "poster team")
    assert invalid["error"].startswith("prompt: String should have at most 4096")
    assert (crashed["status_code"], crashed["error"]) == (500, "It broke.")
    assert len(get(operated, "failures", limit=1)["failures"]) == 1

    (worker,) = get(operated, "workers")["workers"]
    assert (worker["worker_id"], worker["model"]) == (operated.worker.id, "squares")


def test_an_operator_sees_the_queue(operated):
    taken = operated.submit("slow", headers=operated.other)
    operated.until(lambda: any(job.id == taken["request_id"] for job in operated.worker.claimed))
    found = operated.until(
        lambda: [row for row in get(operated, "queue")["requests"] if row["state"] == "running"]
    )
    assert [(row["request_id"], row["key"]) for row in found] == [
        (taken["request_id"], "poster team")
    ]
    queues = {row["endpoint_id"]: row for row in get(operated, "queue")["queues"]}
    assert queues[APP]["num_running"] == 1
    operated.http.put(f"/queue/{APP}/requests/{taken['request_id']}/cancel")
    operated.completed(taken["request_id"])
    assert get(operated, "queue")["requests"] == []
    # a request that its caller took back is no failure
    assert len(get(operated, "failures")["failures"]) == 2


def test_an_operator_sees_deliveries(operated):
    operated.submit(query={"fal_webhook": "https://hooks.example/x"}, headers=operated.other)
    found = operated.until(lambda: get(operated, "webhooks")["deliveries"])
    assert [row["url"] for row in found] == ["https://hooks.example/x"]


@pytest.mark.parametrize("path", PATHS)
def test_others_are_told_whom_to_ask(server, path):
    """The key of the tests is not called "first"."""
    answer = server.http.get(f"{OPERATOR}/{path}")
    assert answer.status_code == 403
    assert "GLMIMAGE_OPERATOR_KEYS" in answer.json()["detail"]
    assert server.stranger.get(f"{OPERATOR}/{path}").status_code == 401


def test_a_key_may_be_named_by_its_id(serve):
    server = serve(operator_keys="")
    assert server.http.get(f"{OPERATOR}/queue").status_code == 403
    server.services.settings.__dict__["operator_keys"] = server.key_record.id
    assert server.http.get(f"{OPERATOR}/queue").status_code == 200


def test_without_keys_everybody_is_an_operator(serve):
    server = serve(auth=False)
    for path in PATHS:
        assert httpx.get(f"{server.url}{OPERATOR}/{path}").status_code == 200
