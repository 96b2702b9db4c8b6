"""The queue as clients see it: submit, status, stream, result, cancel (spec 4 and 15)."""

import json
import re
import threading
import time
import uuid

import httpx
import pytest

APP = "fal-ai/glm-image"
EDIT = "fal-ai/glm-image/image-to-image"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKUlEQVR4nO3NMQEAAAjDMMC"
    "/ZzDBvlRA01vZJvwHAAAAAAAAAAAAbx2jxAE/i2AjOgAAAABJRU5ErkJggg=="
)


def one(request_id, app=APP):
    return f"/queue/{app}/requests/{request_id}"


def events(response):
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


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


def test_queued_has_a_position_that_falls(paused):
    first, second, third = (paused.submit()["request_id"] for _ in range(3))
    answer = paused.http.get(f"{one(third)}/status")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["status"], body["queue_position"]) == ("IN_QUEUE", 2)
    assert "response_url" in body
    paused.http.put(f"{one(first)}/cancel")
    paused.until(lambda: paused.http.get(f"{one(third)}/status").json()["queue_position"] == 1)
    assert paused.http.get(f"{one(second)}/status").json()["queue_position"] == 0


def test_low_priority_waits_behind_normal(paused):
    low = paused.submit(headers={"X-Fal-Queue-Priority": "low"})
    normal = paused.submit(headers={"X-Fal-Queue-Priority": "normal"})
    odd = paused.submit(headers={"X-Fal-Queue-Priority": "urgent"})
    assert normal["queue_position"] == 0
    assert odd["queue_position"] == 1
    status = paused.http.get(f"{one(low['request_id'])}/status").json()
    assert status["queue_position"] == 2


@pytest.mark.parametrize("logs", ["1", "true", "True", "0", "false", None])
def test_running_always_has_the_key_logs(held, logs):
    request_id = held.submit("slow")["request_id"]
    query = {} if logs is None else {"logs": logs}

    def running():
        answer = held.http.get(f"{one(request_id)}/status", params=query)
        return answer if answer.json()["status"] == "IN_PROGRESS" else None

    answer = held.until(running)
    assert answer.status_code == 202
    assert "logs" in answer.json()
    if logs in ("1", "true", "True"):
        held.until(lambda: running().json()["logs"])
    else:
        assert answer.json()["logs"] is None
    held.tell(held.worker.go.set)
    done = held.completed(request_id)
    assert done["logs"] is None


@pytest.mark.parametrize("logs", ["yes", "", "nan", "1e999999"])
def test_logs_must_be_readable(server, logs):
    request_id = server.submit()["request_id"]
    answer = server.http.get(f"{one(request_id)}/status", params={"logs": logs})
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


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
@pytest.mark.parametrize("request_id", [str(uuid.uuid4()), "nonsense", "%00", "..%2F..", "é"])
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


def test_an_invalid_input_is_told_by_its_result(server):
    body = server.submit("many", num_images=9)
    assert body["status"] == "IN_QUEUE"
    status = server.completed(body["request_id"])
    assert status["error_type"] == "less_than_equal"
    answer = server.http.get(one(body["request_id"]))
    assert answer.status_code == 422
    assert answer.headers["x-fal-retryable"] == answer.headers["x-fal-needs-retry"] == "false"
    assert answer.json()["detail"] == [
        {
            "loc": ["body", "num_images"],
            "msg": "Input should be less than or equal to 4",
            "type": "less_than_equal",
            "url": "https://docs.fal.ai/errors#less_than_equal",
            "ctx": {"le": 4},
            "input": 9,
        }
    ]


def test_validation_at_once_is_a_setting(serve):
    server = serve(defer_validation=False)
    answer = server.http.post(f"/queue/{APP}", json={"prompt": ""})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "prompt"]


def test_a_refused_prompt_is_a_policy_violation(server):
    answer = server.result(server.submit("explicit porn scene")["request_id"])
    assert answer.status_code == 422
    detail = answer.json()["detail"][0]
    assert (detail["type"], detail["loc"]) == ("content_policy_violation", ["body", "prompt"])
    unchecked = server.submit("explicit porn scene", enable_safety_checker=False)
    assert server.result(unchecked["request_id"]).status_code == 200


def test_start_deadline_passes_in_the_queue(paused):
    request_id = paused.submit(headers={"X-Fal-Request-Timeout": "0.2"})["request_id"]
    status = paused.completed(request_id)
    assert status["error_type"] == "request_timeout"
    answer = paused.http.get(one(request_id))
    assert answer.status_code == 504
    assert answer.json() == {"detail": "Request timed out", "error_type": "request_timeout"}
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert answer.headers["x-fal-request-id"] == request_id


def test_the_newer_timeout_header_wins(paused):
    headers = {"X-Fal-Request-Start-Timeout": "0.2", "X-Fal-Request-Timeout": "9999"}
    request_id = paused.submit(headers=headers)["request_id"]
    assert paused.completed(request_id)["error_type"] == "request_timeout"


@pytest.mark.parametrize("value", ["0", "0.1", "-1", "soon", "nan", "inf", "1e400", "1 2", "١"])
def test_bad_timeout_headers(server, value):
    headers = {"X-Fal-Request-Timeout": value.encode()}
    answer = server.http.post(f"/queue/{APP}", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"
    assert answer.headers["x-fal-error-type"] == "bad_request"


def test_max_queue_length_of_the_caller(paused):
    paused.submit()
    paused.submit()
    full = paused.http.post(
        f"/queue/{APP}", params={"fal_max_queue_length": 1}, json={"prompt": "x"}
    )
    assert full.status_code == 429
    assert full.json()["error_type"] == "queue_full"
    assert int(full.headers["retry-after"]) > 0
    assert paused.submit(query={"fal_max_queue_length": 2})["queue_position"] == 2


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "9" * 12])
def test_bad_max_queue_length(server, value):
    answer = server.http.post(
        f"/queue/{APP}", params={"fal_max_queue_length": value}, json={"prompt": "x"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://x.example/a", "http://", "https://u:p@x.example/", "file:///etc"]
)
def test_a_malformed_webhook_is_refused_at_submit(server, url):
    answer = server.http.post(f"/queue/{APP}", params={"fal_webhook": url}, json={"prompt": "x"})
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


def test_status_stream_sends_each_log_once_and_closes(held):
    request_id = held.submit("slow")["request_id"]
    timer = threading.Timer(0.3, held.tell, [held.worker.go.set])
    timer.start()
    with held.http.stream("GET", f"{one(request_id)}/status/stream?logs=1") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-fal-request-id"] == request_id
        seen = events(response)
    timer.join()
    assert seen[-1]["status"] == "COMPLETED"
    assert {event["status"] for event in seen} <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    messages = [entry["message"] for event in seen for entry in event.get("logs") or []]
    assert messages == ["step 1/2", "step 2/2"]
    assert held.http.get(one(request_id)).status_code == 200


def test_the_result_is_there_the_instant_completed_is_sent(server):
    for _ in range(10):
        request_id = server.submit()["request_id"]
        with server.http.stream("GET", f"{one(request_id)}/status/stream") as response:
            for line in response.iter_lines():
                if line.startswith("data: ") and json.loads(line[6:])["status"] == "COMPLETED":
                    assert server.http.get(one(request_id)).status_code == 200


def test_status_stream_of_what_has_ended(server):
    request_id = server.submit()["request_id"]
    server.completed(request_id)
    with server.http.stream("GET", f"{one(request_id)}/status/stream?logs=1") as response:
        (event,) = events(response)
    assert event["status"] == "COMPLETED"
    assert len(event["logs"]) == 2


def test_a_client_that_leaves_does_not_stop_a_queued_request(held):
    request_id = held.submit("slow")["request_id"]
    with held.http.stream("GET", f"{one(request_id)}/status/stream") as response:
        next(response.iter_lines())
    held.tell(held.worker.go.set)
    assert "error" not in held.completed(request_id)


def test_sync_mode_answers_data_uris(server):
    output = server.result(server.submit("inline", sync_mode=True)["request_id"]).json()
    assert output["images"][0]["url"].startswith("data:image/jpeg;base64,")


def test_store_io_and_retry_headers_reach_the_job(paused):
    headers = {"X-Fal-Store-IO": "0", "X-Fal-No-Retry": "1", "X-Fal-Runner-Hint": "h1"}
    request_id = paused.submit(headers=headers)["request_id"]
    job = paused.call(paused.store.get(request_id))
    assert (job.store_io, job.max_attempts) == (False, 1)


def test_lifecycle_reaches_the_job(paused):
    wish = {"expiration_duration_seconds": 60, "initial_acl": {"default": "hide"}}
    headers = {"X-Fal-Object-Lifecycle-Preference": json.dumps(wish)}
    job = paused.call(paused.store.get(paused.submit(headers=headers)["request_id"]))
    assert job.lifecycle == {
        "expiration_duration_seconds": 60,
        "initial_acl": {"default": "hide", "rules": []},
    }


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[]",
        '{"expiration_duration_seconds": "1h"}',
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": true}',
        '{"initial_acl": "hide"}',
        '{"initial_acl": {"default": "perhaps"}}',
        '{"initial_acl": {"rules": [{"user": 1, "decision": "allow"}]}}',
        '{"initial_acl": {"rules": [{"user": "bob", "decision": "no"}]}}',
        "[" * 5000,
    ],
)
def test_bad_lifecycle(server, value):
    headers = {"X-Fal-Object-Lifecycle-Preference": value}
    answer = server.http.post(f"/queue/{APP}", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 400


def test_an_expired_result_is_not_found(server):
    request_id = server.submit()["request_id"]
    server.completed(request_id)
    server.call(server.store.delete_payload(request_id))
    answer = server.http.get(one(request_id))
    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


def test_a_lost_worker_is_no_ones_loss(server):
    """A job whose worker dies is queued again, and polls say so."""
    server.tell(server.worker.awake.clear)
    try:
        probe = server.submit("a probe")["request_id"]
        server.http.put(f"{one(probe)}/cancel")
        request_id = server.submit()["request_id"]
        claims = server.call(server.store.claim("mortal", ["prior"], 1, 30.0))
        assert [claim.job.id for claim in claims] == [request_id]
        server.until(
            lambda: server.http.get(f"{one(request_id)}/status").json()["status"] == "IN_PROGRESS"
        )
        server.call(server.store.abandon("mortal"))
        server.until(
            lambda: server.http.get(f"{one(request_id)}/status").json()["status"] == "IN_QUEUE"
        )
    finally:
        server.tell(server.worker.awake.set)
    assert "error" not in server.completed(request_id)


def test_requests_survive_a_restart_of_the_view(server, paused):
    """A server that comes up later knows position and end of what was asked before."""
    from glmimage.server.live_jobs import LiveJobs

    request_ids = [paused.submit()["request_id"] for _ in range(3)]
    later = LiveJobs(paused.store)

    async def look():
        import asyncio

        following = asyncio.create_task(later.follow())
        await later.loaded()
        jobs = [await later.get(request_id) for request_id in request_ids]
        positions = [await later.position(job) for job in jobs]
        following.cancel()
        return positions

    assert paused.call(look()) == [0, 1, 2]


def test_polls_are_cheap(server):
    """One poll of a known request asks the store nothing."""
    request_id = server.submit()["request_id"]
    server.completed(request_id)
    reads = []
    original = server.store._db.read

    async def counted(*arguments, **options):
        reads.append(arguments)
        return await original(*arguments, **options)

    server.store._db.read = counted
    try:
        time.sleep(0.05)
        before = len(reads)
        for _ in range(20):
            server.http.get(f"{one(request_id)}/status")
        polls = [r for r in reads[before:] if r[0].__name__ in ("get", "position", "logs")]
    finally:
        server.store._db.read = original
    assert polls == []


def test_malformed_json_is_refused_at_submit(server):
    headers = {"content-type": "application/json"}
    answer = server.http.post(f"/queue/{APP}", content=b'{"prompt": x}', headers=headers)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert (detail["type"], detail["loc"]) == ("json_invalid", ["body", 11])


def test_a_body_that_is_no_object(server):
    for body in ([], "text", 5, None, True):
        answer = server.http.post(f"/queue/{APP}", content=json.dumps(body))
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body"]


def test_a_body_that_is_too_large(serve):
    server = serve(max_body_bytes=2000)
    answer = server.http.post(f"/queue/{APP}", json={"prompt": "x" * 3000})
    assert answer.status_code == 413

    def chunks():
        for _ in range(100):
            yield b"x" * 100

    answer = server.http.post(f"/queue/{APP}", content=chunks())
    assert answer.status_code == 413
    assert server.result(server.submit()["request_id"]).status_code == 200


def test_input_in_the_history_is_bounded(server):
    request_id = server.submit("p" * 5000, num_images=9)["request_id"]
    job = server.call(server.store.get(request_id))
    assert len(json.dumps(job.input)) < 4000


def test_reason_phrases_are_sent(server):
    answer = server.http.get(one("nothing"))
    assert answer.reason_phrase == "Not Found"
    assert isinstance(answer, httpx.Response)
