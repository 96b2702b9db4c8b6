"""The life of a request in the queue, its result, its end (spec 4 and 15)."""

import re
import uuid

import httpx
import pytest

APP = "fal-ai/glm-image"
EDIT = "fal-ai/glm-image/image-to-image"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKUlEQVR4nO3NMQEAAAjDMMC"
    "/ZzDBvlRA01vZJvwHAAAAAAAAAAAAbx2jxAE/i2AjOgAAAABJRU5ErkJggg=="
)
NOBODYS = "95900f6c-09be-4536-b2d6-2ef993bf9c1d"


def one(request_id, app=APP):
    return f"/queue/{app}/requests/{request_id}"


def test_submit_answers_what_the_clients_read(paused):
    body = paused.submit()
    assert str(uuid.UUID(body["request_id"])) == body["request_id"]
    base = f"{paused.url}/queue/{APP}/requests/{body['request_id']}"
    assert body["response_url"] == base
    assert body["status_url"] == f"{base}/status"
    assert body["cancel_url"] == f"{base}/cancel"
    assert body["status"] == "IN_QUEUE"
    assert isinstance(body["queue_position"], int)
    assert (body["logs"], body["metrics"]) == (None, {})


def test_life_of_a_request(server):
    body = server.submit("a poster", seed=7, num_images=2)
    request_id = body["request_id"]
    status = server.completed(request_id, logs=True)
    assert status["status"] == "COMPLETED"
    assert [entry["message"] for entry in status["logs"]] == ["step 1/2", "step 2/2"]
    assert {entry["source"] for entry in status["logs"]} == {"USER"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", status["logs"][0]["timestamp"])
    assert status["metrics"]["inference_time"] >= 0
    assert "error" not in status
    answer = server.http.get(body["response_url"])
    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == request_id
    assert answer.headers["x-fal-billable-units"] == "0.524288"
    output = answer.json()
    assert set(output) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    assert (output["seed"], output["prompt"]) == (7, "a poster")
    assert output["has_nsfw_concepts"] == [False, False]
    for image in output["images"]:
        assert (image["width"], image["height"]) == (512, 512)
        assert image["content_type"] == "image/jpeg"
        picture = server.stranger.get(image["url"])
        assert picture.status_code == 200, picture.text
        assert len(picture.content) == image["file_size"]
        assert picture.headers["content-type"] == "image/jpeg"


def test_requests_of_both_endpoints_are_read_under_the_app(server):
    body = server.submit("an edit", EDIT, image_urls=[PIXEL])
    assert EDIT not in body["response_url"]
    assert server.result(body["request_id"]).status_code == 200


@pytest.mark.parametrize("app", [APP, EDIT])
@pytest.mark.parametrize("suffix", ["", "/"])
def test_full_id_and_slash_are_aliases(server, app, suffix):
    request_id = server.submit()["request_id"]
    server.completed(request_id)
    for path in ("", "/response", "/status"):
        answer = server.http.get(f"{one(request_id, app)}{path}{suffix}")
        assert answer.status_code == 200, path
        assert not answer.history
    assert server.http.put(f"{one(request_id, app)}/cancel{suffix}").status_code == 400
    again = server.http.post(f"/queue/{APP}{suffix}", json={"prompt": "x", "image_size": "square"})
    assert again.status_code == 200


@pytest.mark.parametrize("call", ["", "/status", "/status/stream", "/response"])
@pytest.mark.parametrize("request_id", [NOBODYS, "nonsense", "%00", "..%2F..", "é"])
def test_unknown_request(server, call, request_id):
    answer = server.http.get(f"{one(request_id)}{call}")
    assert answer.status_code == 404
    assert answer.headers["x-fal-request-id"]


def test_unknown_request_in_words(server):
    for answer in (
        server.http.get(one("nothing")),
        server.http.get(f"{one('nothing')}/status"),
        server.http.put(f"{one('nothing')}/cancel"),
    ):
        assert answer.json() == {"status": "NOT_FOUND"}


def test_result_before_the_end(paused):
    answer = paused.http.get(one(paused.submit()["request_id"]))
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Request is still in progress"}


def test_cancel_while_queued(paused):
    request_id = paused.submit()["request_id"]
    answer = paused.http.put(f"{one(request_id)}/cancel")
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    status = paused.completed(request_id)
    assert (status["error"], status["error_type"]) == ("Request cancelled", "client_cancelled")
    result = paused.http.get(one(request_id))
    assert result.status_code == 499
    assert result.json() == {"detail": "Request cancelled", "error_type": "client_cancelled"}
    assert result.headers["x-fal-error-type"] == "client_cancelled"
    again = paused.http.put(f"{one(request_id)}/cancel")
    assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})


def test_cancel_while_running_comes_to_an_end(held):
    request_id = held.submit("slow")["request_id"]
    held.until(lambda: held.http.get(f"{one(request_id)}/status").json()["status"] == "IN_PROGRESS")
    for _ in range(2):
        answer = held.http.put(f"{one(request_id)}/cancel")
        assert answer.status_code in (202, 400)
    assert held.completed(request_id)["error_type"] == "client_cancelled"
    assert held.http.get(one(request_id)).status_code == 499


def test_a_crash_is_a_500_on_the_result(server):
    request_id = server.submit("crash")["request_id"]
    status = server.completed(request_id)
    assert status["status"] == "COMPLETED"
    assert (status["error"], status["error_type"]) == ("It broke.", "internal_server_error")
    answer = server.http.get(one(request_id))
    assert answer.status_code == 500
    assert answer.json()["detail"][0]["url"].endswith("#internal_server_error")
    assert answer.headers["x-fal-retryable"] == answer.headers["x-fal-needs-retry"] == "true"
    assert answer.headers["x-fal-billable-units"] == "0"


def test_flagged_pictures_are_marked(server):
    output = server.result(server.submit("flagged")["request_id"]).json()
    assert output["has_nsfw_concepts"] == [True]


def test_an_expired_result_is_not_found(server):
    request_id = server.submit()["request_id"]
    server.completed(request_id)
    server.call(server.store.delete_payload(request_id))
    answer = server.http.get(one(request_id))
    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


def test_reason_phrases_are_sent(server):
    answer = server.http.get(one("nothing"))
    assert answer.reason_phrase == "Not Found"
    assert isinstance(answer, httpx.Response)
