"""The images API in Z.ai's form."""

import pytest

PATHS = ("/paas/v4/images/generations", "/api/paas/v4/images/generations")
BODY = {"model": "glm-image", "prompt": "a square", "size": "1024x1024"}


def refused(answer, status, code):
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert set(error) == {"code", "message"}
    return error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_the_answer_names_the_picture(server, path):
    headers = {"authorization": f"Bearer {server.key}"}
    answer = server.stranger.post(path, json={**BODY, "user_id": "user-1"}, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (entry,) = body["data"]
    assert server.stranger.get(entry["url"]).headers["content-type"] == "image/png"
    assert body["content_filter"] == [{"role": "assistant", "level": 3}]
    assert body["created"] > 1_700_000_000
    job = server.call(server.store.get(body["id"]))
    assert (job.width, job.input["num_inference_steps"], job.surface) == (1024, 50, "openai")


def test_defaults_and_quality(server):
    body = {"model": "glm-image", "prompt": "a square", "quality": "standard", "seed": 4}
    job = server.call(server.store.get(server.http.post(PATHS[0], json=body).json()["id"]))
    assert (job.width, job.height, job.seed) == (1280, 1280, 4)
    assert job.input["num_inference_steps"] == 30


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": None}, 400, "1213"),
        ({"prompt": None}, 400, "1213"),
        ({"prompt": " "}, 400, "1214"),
        ({"model": "cogview-4"}, 404, "1211"),
        ({"size": "500x500"}, 400, "1214"),
        ({"quality": "low"}, 400, "1214"),
        ({"user_id": "abc"}, 400, "1214"),
        ({"prompt": "explicit porn scene"}, 400, "1301"),
        ({"prompt": "flagged"}, 400, "1301"),
        ({"prompt": "crash"}, 500, "500"),
    ],
)
def test_what_is_refused(server, changes, status, code):
    answer = server.http.post(PATHS[0], json={**BODY, **changes})
    assert refused(answer, status, code)
    assert ("contentFilter" in answer.json()) == (code == "1301")


def test_a_key_is_asked_for(server):
    refused(server.stranger.post(PATHS[1], json=BODY), 401, "1002")
    refused(server.http.post(PATHS[0], content="["), 400, "1210")
