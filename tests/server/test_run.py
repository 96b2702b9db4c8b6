"""The synchronous call and the streamed one (spec 5)."""

import asyncio
import json
import threading

import httpx
import pytest

APP = "fal-ai/glm-image"
RUN = f"/run/{APP}"
BODY = {"prompt": "a square", "image_size": "square"}


def events(response):
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


def running_ids(server):
    return [job.id for job in server.worker.claimed if "slow" in job.input["prompt"]]


def test_run_answers_the_output(server):
    answer = server.http.post(RUN, json={**BODY, "seed": 3, "output_format": "png"})
    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"]
    output = answer.json()
    assert output["seed"] == 3
    assert output["images"][0]["content_type"] == "image/png"
    assert server.stranger.get(output["images"][0]["url"]).status_code == 200


def test_run_tells_an_invalid_input_at_once(server):
    answer = server.http.post(RUN, json={**BODY, "guidance_scale": 99})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "less_than_equal"
    assert answer.headers["x-fal-retryable"] == "false"


def test_run_refuses_a_prompt_by_policy(server):
    answer = server.http.post(RUN, json={**BODY, "prompt": "explicit porn scene"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "content_policy_violation"


def test_run_reports_a_crash(server):
    answer = server.http.post(RUN, json={**BODY, "prompt": "crash"})
    assert answer.status_code == 500
    assert answer.headers["x-fal-needs-retry"] == "true"


def test_run_of_image_to_image(server):
    answer = server.http.post(f"{RUN}/image-to-image", json=BODY)
    assert answer.json()["detail"][0]["loc"] == ["body", "image_urls"]


def hang_up(server, body, when):
    """Close the connection of a run as soon as `when` finds something; return what."""

    async def run():
        async with httpx.AsyncClient(base_url=server.url, headers=server.http.headers) as client:
            running = asyncio.create_task(client.post(RUN, json=body, timeout=None))
            found = await asyncio.to_thread(server.until, when)
            running.cancel()
        return found

    return asyncio.run(run())


def test_who_hangs_up_cancels_the_work(held):
    known = set(running_ids(held))
    body = {**BODY, "prompt": "slow"}
    (request_id,) = hang_up(held, body, lambda: set(running_ids(held)) - known)
    job = held.until(lambda: ended(held, request_id))
    assert (job.state, job.status) == ("cancelled", 499)


def test_who_hangs_up_while_queued_cancels_too(paused):
    def last_ended():
        return paused.call(paused.store.requests(APP, limit=1))[0]

    probe = last_ended()
    hang_up(paused, BODY, paused.services.live.queue_length)
    paused.until(lambda: last_ended().id != probe.id)
    job = paused.call(paused.store.get(last_ended().id))
    assert job.result["error_type"] in ("client_disconnected", "client_cancelled")


def ended(server, request_id):
    job = server.call(server.store.get(request_id))
    return job if job.ended else None


def test_start_deadline_of_a_run(paused):
    answer = paused.http.post(RUN, json=BODY, headers={"X-Fal-Request-Timeout": "0.2"})
    assert answer.status_code == 504
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert answer.headers["x-fal-request-id"]
    assert answer.json()["error_type"] == "request_timeout"


def test_run_with_sync_mode_keeps_nothing(server):
    answer = server.http.post(RUN, json={**BODY, "sync_mode": True})
    assert answer.json()["images"][0]["url"].startswith("data:image/jpeg;base64,")
    request_id = answer.headers["x-fal-request-id"]
    server.until(lambda: server.call(server.store.get(request_id)).result is None)
    assert server.call(server.store.files_of(request_id)) == []


def test_stream_ends_with_the_output(held):
    timer = threading.Timer(0.3, held.tell, [held.worker.go.set])
    timer.start()
    with held.http.stream("POST", f"{RUN}/stream", json={**BODY, "prompt": "slow"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-fal-request-id"]
        seen = events(response)
    timer.join()
    assert seen[-1]["images"][0]["width"] == 512
    assert {event["status"] for event in seen[:-1]} <= {"IN_QUEUE", "IN_PROGRESS"}
    messages = [entry["message"] for event in seen[:-1] for entry in event["logs"]]
    assert messages[:1] == ["step 1/2"]


def test_stream_is_ascii(server):
    body = {**BODY, "prompt": "Ein Plakat mit »Öffnungszeiten« und 漢字"}
    with server.http.stream("POST", f"{RUN}/stream", json=body) as response:
        content = response.read()
    assert content.isascii()
    assert json.loads(content.decode().strip().rpartition("data: ")[2])["prompt"] == body["prompt"]


def test_stream_of_an_invalid_input_has_its_own_status(server):
    answer = server.http.post(f"{RUN}/stream", json={**BODY, "num_images": 0})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"


def test_stream_of_a_crash_ends_with_the_error(server):
    body = {**BODY, "prompt": "crash"}
    with server.http.stream("POST", f"{RUN}/stream", json=body) as response:
        assert events(response)[-1]["detail"][0]["type"] == "internal_server_error"


def test_who_leaves_a_stream_cancels_the_work(held):
    known = set(running_ids(held))
    body = {**BODY, "prompt": "slow"}
    with held.http.stream("POST", f"{RUN}/stream", json=body) as response:
        lines = response.iter_lines()
        held.until(lambda: "IN_PROGRESS" in next(lines))
    (request_id,) = set(running_ids(held)) - known
    assert held.until(lambda: ended(held, request_id)).state == "cancelled"


def test_a_quiet_stream_is_kept_alive(held, monkeypatch):
    monkeypatch.setattr("glmimage.server.event_stream.KEEP_ALIVE_S", 0.05)
    body = {**BODY, "prompt": "slow"}
    with held.http.stream("POST", f"{RUN}/stream", json=body) as response:
        lines = response.iter_lines()
        held.until(lambda: next(lines).startswith(":"))
        held.tell(held.worker.go.set)


def test_target_header_means_nothing_here(server):
    """@fal-ai/server-proxy forwards it to real endpoints."""
    headers = {"x-fal-target-url": "https://queue.fal.run/other/app", "accept": "application/json"}
    assert server.http.post(RUN, json=BODY, headers=headers).status_code == 200


def test_concurrency_of_a_key_limits_direct_requests(serve):
    server = serve()
    text, _ = server.call(server.store.create_key("narrow", concurrency=1))
    headers = {"authorization": f"Key {text}"}
    first = server.http.post(
        f"/queue/{APP}", json={**BODY, "prompt": "slow"}, headers=headers
    ).json()
    url = f"/queue/{APP}/requests/{first['request_id']}/status"
    server.until(lambda: server.http.get(url).json()["status"] == "IN_PROGRESS")
    answer = server.http.post(RUN, json=BODY, headers=headers)
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "concurrent_requests_limit"
    assert answer.headers["x-fal-needs-retry"] == "1"
    waiting = server.http.post(f"/queue/{APP}", json=BODY, headers=headers)
    assert waiting.status_code == 200
    server.tell(server.worker.go.set)
    assert "error" not in server.completed(waiting.json()["request_id"])
    server.until(lambda: server.http.post(RUN, json=BODY, headers=headers).status_code == 200)


def test_rate_of_a_key(serve):
    server = serve()
    text, _ = server.call(server.store.create_key("slow", rate=2))
    headers = {"authorization": f"Key {text}"}
    codes = [server.http.post(RUN, json=BODY, headers=headers).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    answer = server.http.post(RUN, json=BODY, headers=headers)
    assert answer.json()["error_type"] == "rate_limit"
    assert int(answer.headers["retry-after"]) > 0
    assert server.http.post(RUN, json=BODY).status_code == 200


def test_a_server_that_stops_says_so(held):
    """uvicorn cancels what is left when its patience ends."""
    sent = []

    async def request():
        body = json.dumps({**BODY, "prompt": "slow"}).encode()
        arrived = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return arrived.pop() if arrived else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        headers = [(b"authorization", f"Key {held.key}".encode()), (b"host", b"x")]
        scope = {"type": "http", "method": "POST", "path": RUN, "headers": headers}
        scope |= {"query_string": b"", "scheme": "http", "http_version": "1.1"}
        known = len(held.worker.claimed)
        task = asyncio.create_task(held.app(scope, receive, send))
        while len(held.worker.claimed) == known:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    held.call(request())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error_type"] == "runner_disconnected"


def test_get_runs_and_submits_what_the_address_says(server):
    """What fal's JavaScript client makes of `method: "get"`."""
    query = {"prompt": "a, b", "image_size": "square", "seed": "3", "sync_mode": "false"}
    ran = server.http.get(RUN, params=query)
    assert ran.status_code == 200
    assert (ran.json()["seed"], ran.json()["prompt"]) == (3, "a, b")
    headers = {"X-Glmimage-Cache": "off"}
    own = {**query, "image_size": '{"width": 544, "height": 512}', "seed": "null"}
    submitted = server.http.get(f"/queue/{APP}/", params=own, headers=headers).json()
    image = server.result(submitted["request_id"]).json()["images"][0]
    assert (image["width"], image["height"]) == (544, 512)
    urls = "http://127.0.0.1/a,b.png,data:image/png;base64,AAAA"
    edit = server.http.get(f"{RUN}/image-to-image", params={**query, "image_urls": urls})
    assert edit.json()["detail"][0]["loc"] == ["body", "image_urls", 1]


@pytest.mark.parametrize(
    ("query", "field", "kind"),
    [
        ("", "prompt", "missing"),
        ("prompt=a&seed=x", "seed", "int_parsing"),
        ("prompt=a&seed=1&seed=2", "seed", "int_type"),
        ("prompt=a&image_size=[object Object]", "image_size", "one_of"),
        ("prompt=a&image_size={", "image_size", "one_of"),
        ("prompt=a&num_images=", "num_images", "int_parsing"),
        ("prompt=a&enable_safety_checker=1", "enable_safety_checker", "bool_parsing"),
    ],
)
def test_get_tells_what_is_wrong(server, query, field, kind):
    detail = server.http.get(f"{RUN}?{query}").json()["detail"][0]
    assert (detail["loc"], detail["type"]) == (["body", field], kind)


@pytest.mark.parametrize("path", [RUN, f"/queue/{APP}"])
def test_head_does_no_work(server, path):
    known = len(server.worker.claimed)
    answer = server.http.head(path, params={"prompt": "a square"})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert len(server.worker.claimed) == known
