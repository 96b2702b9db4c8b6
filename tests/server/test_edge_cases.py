"""Every case of the specification's table of edge cases has its tests; those that had none."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
APP = "fal-ai/glm-image"
BODY = {"prompt": "a square", "image_size": "square"}
QUEUE, SUBMIT = "server/test_queue.py", "server/test_queue_submit.py"
STATUS, RUN = "server/test_queue_status.py", "server/test_run.py"
HERE = "server/test_edge_cases.py"
PYTHON = "clients/test_python_sync.py"
JAVASCRIPT = "clients/javascript"

# case -> the file, and the names of its tests
CASES = {
    "unknown request id": {
        QUEUE: ["test_unknown_request", "test_unknown_request_in_words"],
        PYTHON: ["test_an_unknown_request"],
        f"{JAVASCRIPT}/next_proxy.test.mjs": ["every refusal keeps its status"],
    },
    "result before completion": {QUEUE: ["test_result_before_the_end"]},
    "cancel after completion": {
        QUEUE: ["test_full_id_and_slash_are_aliases", "test_cancel_while_queued"],
        PYTHON: ["test_cancel_while_it_runs"],
    },
    "duplicate cancel while stopping": {HERE: ["test_a_second_cancel_while_the_work_stops"]},
    "result after cancel": {
        QUEUE: ["test_cancel_while_queued", "test_cancel_while_running_comes_to_an_end"],
        PYTHON: ["test_cancel_while_it_runs", "test_cancel_by_id_while_it_waits"],
        f"{JAVASCRIPT}/client.test.mjs": ["queue: cancel"],
    },
    "bad or missing key": {
        "server/test_access.py": ["test_without_a_valid_key_nothing_answers"],
        PYTHON: ["test_a_wrong_key"],
        f"{JAVASCRIPT}/client.test.mjs": ["a wrong key is refused"],
    },
    "malformed JSON body": {
        SUBMIT: ["test_malformed_json_is_refused_at_submit"],
        "server/test_bad_requests.py": ["test_bodies"],
    },
    "body is JSON but not an object": {
        SUBMIT: ["test_a_body_that_is_no_object"],
        "server/test_bad_requests.py": ["test_bodies"],
    },
    "invalid field": {
        SUBMIT: ["test_an_invalid_input_is_told_by_its_result"],
        PYTHON: ["test_invalid_input_is_told_by_subscribe_and_run"],
        f"{JAVASCRIPT}/client.test.mjs": ["invalid input is a ValidationError with its fields"],
    },
    "start deadline passed in the queue": {
        SUBMIT: ["test_start_deadline_passes_in_the_queue"],
        PYTHON: ["test_a_start_that_comes_too_late"],
        f"{JAVASCRIPT}/late_start.test.mjs": ["subscribe"],
    },
    "start deadline passed on run": {
        RUN: ["test_start_deadline_of_a_run"],
        f"{JAVASCRIPT}/late_start.test.mjs": ["run"],
    },
    "queue longer than fal_max_queue_length": {
        SUBMIT: ["test_max_queue_length_of_the_caller", "test_bad_max_queue_length"],
        HERE: ["test_a_full_queue_is_asked_again_by_the_client"],
    },
    "unknown endpoint": {
        "server/test_access.py": ["test_unknown_endpoints"],
        PYTHON: ["test_an_unknown_endpoint"],
    },
    "bad timeout header": {
        SUBMIT: ["test_bad_timeout_headers"],
        "server/test_bad_requests.py": ["test_headers"],
    },
    "generation crashes": {
        QUEUE: ["test_a_crash_is_a_500_on_the_result"],
        RUN: ["test_run_reports_a_crash", "test_stream_of_a_crash_ends_with_the_error"],
    },
    "webhook unreachable": {
        "server/test_webhooks.py": [
            "test_an_unreachable_receiver_does_not_hurt_the_request",
            "test_it_is_given_up_when_the_window_is_over",
        ],
    },
    "result expired": {
        QUEUE: ["test_an_expired_result_is_not_found"],
        "server/test_sweeper.py": ["test_old_results_go_and_the_request_is_not_found"],
    },
    "queue position": {
        STATUS: ["test_queued_has_a_position_that_falls"],
        PYTHON: ["test_cancel_by_id_while_it_waits"],
    },
    "client disconnects": {
        RUN: [
            "test_who_hangs_up_cancels_the_work",
            "test_who_hangs_up_while_queued_cancels_too",
            "test_who_leaves_a_stream_cancels_the_work",
        ],
        STATUS: ["test_a_client_that_leaves_does_not_stop_a_queued_request"],
        "server/test_realtime.py": ["test_who_closes_the_socket_cancels_the_work"],
        "clients/test_python_async.py": ["test_a_client_that_goes_away_cancels_its_run"],
    },
    "HTML 502 of a proxy in front": {
        "server/test_behind_proxies.py": ["test_who_finds_nobody_behind_nginx_asks_again"],
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_its_tests(case):
    for file, names in CASES[case].items():
        text = (TESTS / file).read_text("utf-8")
        for name in names:
            assert (f"def {name}(" if file.endswith(".py") else name) in text, name


def test_a_second_cancel_while_the_work_stops(paused):
    request_id = paused.submit()["request_id"]
    (claim,) = paused.call(paused.store.claim("tardy", ["prior"], 1, 30.0))
    assert claim.job.id == request_id
    url = f"/queue/{APP}/requests/{request_id}"
    for _ in range(2):
        answer = paused.http.put(f"{url}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert paused.http.get(url).status_code == 400
    paused.call(paused.store.confirm_cancelled(claim))
    assert paused.completed(request_id)["error_type"] == "client_cancelled"
    assert paused.http.get(url).status_code == 499
    again = paused.http.put(f"{url}/cancel")
    assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})


def test_a_full_queue_is_asked_again_by_the_client(paused):
    """429 is what the unmodified client takes as "ask again": it gets in when there is room."""
    from fal_client.client import _maybe_retry_request

    first = paused.submit()["request_id"]
    paused.submit()
    codes = []

    def note(response):
        codes.append(response.status_code)
        if len(codes) == 2:
            paused.http.put(f"/queue/{APP}/requests/{first}/cancel")

    paused.stranger.event_hooks = {"response": [note]}
    try:
        answer = _maybe_retry_request(
            paused.stranger,
            "POST",
            f"{paused.url}/queue/{APP}?fal_max_queue_length=1",
            json=BODY,
            headers={"authorization": f"Key {paused.key}"},
        )
    finally:
        paused.stranger.event_hooks = {}
    assert answer.status_code == 200
    assert codes[:2] == [429, 429]
    assert codes[-1] == 200
