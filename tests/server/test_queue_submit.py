"""What may be asked of the queue with a submit: headers, query, body (spec 4, 8 and 15)."""

import json

import pytest

APP = "fal-ai/glm-image"


def one(request_id):
    return f"/queue/{APP}/requests/{request_id}"


def test_low_priority_waits_behind_normal(paused):
    low = paused.submit(headers={"X-Fal-Queue-Priority": "low"})
    normal = paused.submit(headers={"X-Fal-Queue-Priority": "normal"})
    odd = paused.submit(headers={"X-Fal-Queue-Priority": "urgent"})
    assert normal["queue_position"] == 0
    assert odd["queue_position"] == 1
    status = paused.http.get(f"{one(low['request_id'])}/status").json()
    assert status["queue_position"] == 2


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
