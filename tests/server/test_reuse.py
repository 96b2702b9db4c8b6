"""Stored pictures of equal requests, and what happens when nobody can paint."""

import json
import time

import pytest

APP = "fal-ai/glm-image"
EDIT = f"{APP}/image-to-image"
RUN = f"/run/{APP}"
BODY = {"prompt": "a square", "image_size": "square"}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKUlEQVR4nO3NMQEAAAjDMMC"
    "/ZzDBvlRA01vZJvwHAAAAAAAAAAAAbx2jxAE/i2AjOgAAAABJRU5ErkJggg=="
)


def run(server, headers=None, endpoint=APP, **fields):
    return server.http.post(f"/run/{endpoint}", json={**BODY, **fields}, headers=headers)


def served_from(answer):
    assert answer.status_code == 200, answer.text
    return answer.headers.get("x-fal-served-from")


def test_the_same_input_and_seed_is_answered_from_store(server):
    first = run(server, seed=11)
    second = run(server, seed=11, image_size={"width": 512, "height": 512}, guidance_scale="1.5")
    assert (served_from(first), served_from(second)) == (None, "cache")
    assert second.json()["images"] == first.json()["images"]
    assert second.headers["x-fal-billable-units"] == "0"
    request_id = second.headers["x-fal-request-id"]
    assert request_id != first.headers["x-fal-request-id"]
    status = server.completed(request_id, logs=True)
    assert first.headers["x-fal-request-id"] in status["logs"][0]["message"]
    rows = server.call(server.store.billing_events(job_id=request_id))
    assert rows == []


def test_the_queue_answers_from_store_too(server):
    run(server, seed=12)
    body = server.submit(**{**BODY, "seed": 12})
    answer = server.result(body["request_id"])
    assert answer.headers["x-fal-served-from"] == "cache"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 14},
        {"prompt": "another"},
        {"image_size": "landscape_4_3"},
        {"num_inference_steps": 31},
        {"guidance_scale": 2},
        {"num_images": 2},
        {"output_format": "png"},
        {"enable_safety_checker": False},
        {"seed": None},
    ],
)
def test_another_input_is_painted(server, change):
    run(server, seed=13)
    assert served_from(run(server, **{"seed": 13, **change})) is None


def test_the_seed_that_was_drawn_can_be_asked_for(server):
    first = run(server, prompt="drawn").json()
    again = run(server, prompt="drawn", seed=first["seed"])
    assert served_from(again) == "cache"


def test_off_with_a_header_and_a_setting(server, serve):
    run(server, seed=15)
    assert served_from(run(server, {"x-glmimage-cache": "off"}, seed=15)) is None
    off = serve(result_cache=False)
    assert [served_from(run(off, seed=15)) for _ in range(2)] == [None, None]


def test_off_means_the_prior_too(paused):
    jobs = [
        paused.call(paused.store.get(paused.submit(seed=15, headers=headers)["request_id"]))
        for headers in ({"x-glmimage-cache": "off"}, {})
    ]
    assert [job.input.get("reuse") for job in jobs] == [False, None]
    assert jobs[0].prior_key == jobs[1].prior_key


def test_files_that_others_may_not_read_are_not_served_to_them(server):
    first = run(server, seed=20)
    (record,) = server.call(server.store.files_of(first.headers["x-fal-request-id"]))
    hidden = {"default": "hide", "rules": []}
    server.call(server.store.set_file_acl(record.id, hidden, record.expires))
    text, _ = server.call(server.store.create_key("another"))
    other = {"authorization": f"Key {text}"}
    wish = {"x-fal-object-lifecycle-preference": json.dumps({"initial_acl": hidden})}
    assert served_from(run(server, wish, seed=20)) == "cache"
    assert served_from(run(server, other, seed=20)) is None
    assert served_from(run(server, {**other, **wish}, seed=20)) is None


def test_whoever_wants_a_picture_hidden_gets_one_of_his_own(server):
    run(server, seed=21)
    wish = {"x-fal-object-lifecycle-preference": '{"initial_acl": {"default": "hide"}}'}
    assert served_from(run(server, wish, seed=21)) is None


def test_nothing_is_served_once_the_files_are_gone(server):
    first = run(server, seed=16)
    request_id = first.headers["x-fal-request-id"]
    records = server.call(server.store.files_of(request_id))
    server.call(server.store.set_file_acl(records[0].id, None, time.time() - 1))
    assert served_from(run(server, seed=16)) is None


def test_data_uris_are_never_stored(server):
    assert [served_from(run(server, seed=17, sync_mode=True)) for _ in range(2)] == [None, None]


def test_references_are_part_of_the_key(server):
    first = run(server, endpoint=EDIT, seed=18, image_urls=[PIXEL])
    again = run(server, endpoint=EDIT, seed=18, image_urls=PIXEL)
    twice = run(server, endpoint=EDIT, seed=18, image_urls=[PIXEL, PIXEL])
    assert [served_from(answer) for answer in (first, again, twice)] == [None, "cache", None]


def test_the_key_of_the_prior_ignores_what_only_the_decoder_sees(paused):
    jobs = [
        paused.call(paused.store.get(paused.submit(seed=19, **change)["request_id"]))
        for change in (
            {},
            {"num_inference_steps": 50, "guidance_scale": 3, "output_format": "png"},
            {"prompt": "another"},
        )
    ]
    first, second, third = (job.prior_key for job in jobs)
    assert first == second != third


def without_worker(serve, monkeypatch, **options):
    monkeypatch.setattr("glmimage.server.capacity.REMEMBERED_S", 0.0)
    server = serve(no_worker_timeout_s=0.05, **options)
    server.until(lambda: run(server, prompt="painted before", seed=1).status_code == 200)
    server.tell(server.worker.awake.clear)

    def refused():
        server.call(server.store.worker_gone(server.worker.id))
        answer = run(server, prompt="another")
        return answer if answer.status_code == 503 else None

    return server, server.until(refused)


def test_no_worker_is_a_clear_503(serve, monkeypatch):
    server, answer = without_worker(serve, monkeypatch)
    assert answer.json()["error_type"] == "runner_scheduling_failure"
    assert "No worker" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-fal-retryable"] == "true"
    queued = server.http.post(f"/queue/{APP}", json=BODY)
    assert queued.status_code == 503
    invalid = run(server, num_images=9)
    assert invalid.status_code == 422
    server.tell(server.worker.awake.set)
    server.until(lambda: run(server).status_code == 200)


def test_fallback_answers_from_the_same_prompt(serve, monkeypatch):
    server, _ = without_worker(serve, monkeypatch, fallback=True)
    answer = run(server, prompt="painted before", seed=2, image_size="square_hd")
    assert served_from(answer) == "fallback"
    assert answer.json()["seed"] == 1
    assert answer.json()["images"][0]["width"] == 512
    status = server.completed(answer.headers["x-fal-request-id"], logs=True)
    assert "Answered with the pictures of request" in status["logs"][0]["message"]
    assert run(server, prompt="never painted").status_code == 503
    for header in ("x-app-fal-disable-fallback", "x-fal-disable-fallbacks"):
        assert run(server, {header: "1"}, prompt="painted before", seed=2).status_code == 503


def test_fallback_is_off_by_default(serve, monkeypatch):
    server, _ = without_worker(serve, monkeypatch)
    assert run(server, prompt="painted before", seed=2).status_code == 503


def test_the_servers_own_queue_limit(serve):
    server = serve(max_queue_length=2)
    server.tell(server.worker.awake.clear)
    codes = []

    def full():
        codes.append(server.http.post(f"/queue/{APP}", json=BODY).status_code)
        return codes[-1] == 429

    server.until(full)
    assert codes.count(200) >= 2
    answer = server.http.post(f"/queue/{APP}", json=BODY)
    assert answer.json()["error_type"] == "queue_full"
    server.tell(server.worker.awake.set)
    server.until(lambda: server.http.post(f"/queue/{APP}", json=BODY).status_code == 200)
