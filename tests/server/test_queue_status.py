"""How far a request is: polls, the status stream, positions, logs (spec 4)."""

import json
import threading
import time

import pytest

APP = "fal-ai/glm-image"


def one(request_id):
    return f"/queue/{APP}/requests/{request_id}"


def events(response):
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


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
        server.call(server.store.recover_leases(time.time() + 100))
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
