"""What gateway and worker of a started service write of prompts: nothing, unless asked to."""

import json

import httpx
import pytest

from ..running_service import Service

SECRET = "a purple walrus"
QUEUE = "/queue/fal-ai/glm-image"
SMALL = {"image_size": "square", "num_inference_steps": 10}
BROKEN = f"{SECRET} <|image|>"  # a marker of the model's, which only the worker knows


@pytest.fixture
def started(tmp_path, tiny_dir):
    settings = {"GLMIMAGE_LOG_FORMAT": "json", "GLMIMAGE_LOG_LEVEL": "debug"}
    service = Service(tmp_path, tiny_dir, settings=settings)
    yield service
    service.kill()


def ask(service, prompt):
    """Submit, wait as clients do; return the request's id."""
    headers = {"authorization": f"Key {service.target.api_key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=300) as client:
        taken = client.post(QUEUE, json={"prompt": prompt, **SMALL}, params={"prompt": prompt})
        request_id = taken.json()["request_id"]
        client.get(f"{QUEUE}/requests/{request_id}/status/stream?logs=1")
        return request_id


def test_only_when_asked_for(started):
    made, failed = ask(started, SECRET), ask(started, BROKEN)
    assert started.stop() == 0
    logs = started.logs()
    lines = [json.loads(line) for line in logs.splitlines()]
    assert all("request_id" in line for line in lines)
    for request_id in (made, failed):
        own = {line["logger"].split(".")[1] for line in lines if line["request_id"] == request_id}
        assert own == {"server", "worker"}
    assert any("Job" in line["event"] and "failed" in line["event"] for line in lines)
    assert "purple" not in logs

    started.environment["GLMIMAGE_LOG_PROMPTS"] = "1"
    started.start(*started.same_addresses(), "--workers", "0", wait_for="page")
    headers = {"authorization": f"Key {started.target.api_key}"}
    taken = httpx.post(f"{started.url}{QUEUE}", json={"prompt": SECRET, **SMALL}, headers=headers)
    assert started.stop() == 0
    told = [json.loads(line) for line in started.logs().splitlines() if "purple" in line]
    assert [(line["request_id"], line["prompt"]) for line in told] == [
        (taken.json()["request_id"], SECRET)
    ]
