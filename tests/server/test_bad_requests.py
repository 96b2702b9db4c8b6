"""Bad requests beside the fields: bodies, headers, queries, calls; each has its documented status.

After each of them the server takes the next good request.
"""

import json

import pytest

APP = "fal-ai/glm-image"
GOOD = {"prompt": "a square", "image_size": "square"}
HUGE = 10**30

BODIES = [  # raw bodies: content, type
    (b"", "json_invalid"),
    (b" ", "json_invalid"),
    (b"{", "json_invalid"),
    (b"}", "json_invalid"),
    (b'{"prompt"', "json_invalid"),
    (b'{"prompt":}', "json_invalid"),
    (b"{'prompt': 'a'}", "json_invalid"),
    (b'{"prompt": "a",}', "json_invalid"),
    (b'{"prompt": "a"} x', "json_invalid"),
    (b'{"prompt": "a"}{}', "json_invalid"),
    (b'{"prompt": NaN}', "json_invalid"),
    (b'{"seed": Infinity}', "json_invalid"),
    (b'{"seed": 01}', "json_invalid"),
    (b'{"seed": +1}', "json_invalid"),
    (b'{"seed": .5}', "json_invalid"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "json_invalid"),
    (b'{"prompt": "\n"}', "json_invalid"),
    (b'{"prompt": "\\x41"}', "json_invalid"),
    (b'{"prompt": "\\ud800"}', "json_invalid"),
    (b'{"prompt": "\\udc00\\ud800"}', "json_invalid"),
    (b'{"prompt": "\xff"}', "json_invalid"),
    (b"\xff\xfe{\x00}\x00", "json_invalid"),
    (b"\xef\xbb\xbf{}", "json_invalid"),
    (b"\x00", "json_invalid"),
    (b"[" * 100_000, "json_invalid"),
    (b'{"a":' * 100_000, "json_invalid"),
    (b"prompt=a&seed=1", "json_invalid"),
    (b"--x\r\ncontent-disposition: form-data\r\n\r\n--x--", "json_invalid"),
    (b"<xml/>", "json_invalid"),
    (b"null", "model_attributes_type"),
    (b"true", "model_attributes_type"),
    (b"0", "model_attributes_type"),
    (b'"prompt"', "model_attributes_type"),
    (b"[]", "model_attributes_type"),
    (b'[{"prompt": "a"}]', "model_attributes_type"),
    (b"{}", "missing"),
    (b'{"Prompt": "a"}', "missing"),
    (b'{"input": {"prompt": "a"}}', "missing"),
]
HEADERS = [
    ("X-Fal-Request-Timeout", "0"),
    ("X-Fal-Request-Timeout", "-5"),
    ("X-Fal-Request-Timeout", "0.1"),
    ("X-Fal-Request-Timeout", "5s"),
    ("X-Fal-Request-Timeout", "1e3"),
    ("X-Fal-Request-Timeout", "1,5"),
    ("X-Fal-Request-Timeout", "9" * 30),
    ("X-Fal-Request-Start-Timeout", "soon"),
    ("X-Fal-Request-Start-Timeout", "inf"),
    ("X-Fal-Object-Lifecycle-Preference", "1h"),
    ("X-Fal-Object-Lifecycle-Preference", "[]"),
    ("X-Fal-Object-Lifecycle-Preference", "3600"),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": NaN}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": 1e400}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": -1}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": []}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": []}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"default": 1}}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"default": ["hide"]}}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"rules": {}}}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"rules": [1]}}'),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"rules": [{"user": "a"}]}}'),
]
QUERIES = [
    "fal_max_queue_length=-1",
    "fal_max_queue_length=1.0",
    "fal_max_queue_length=%00",
    "fal_max_queue_length=%D9%A1",
    "fal_max_queue_length=" + "9" * 40,
    "fal_webhook=here",
    "fal_webhook=%00",
    "fal_webhook=ftp%3A%2F%2Fx.example",
    "fal_webhook=http%3A%2F%2F",
    "fal_webhook=http%3A%2F%2Fa%20b%2F",
    "fal_webhook=http%3A%2F%2Fx.example%3A99999%2F",
    "fal_webhook=https%3A%2F%2Fu%3Ap%40x.example%2F",
    "fal_webhook=javascript%3Aalert(1)",
    "fal_webhook=https%3A%2F%2Fx.example%2F" + "a" * 9000,
]
CALLS = [  # method, path, body, status
    ("PATCH", f"/queue/{APP}", None, 405),
    ("PUT", f"/queue/{APP}", GOOD, 405),
    ("DELETE", f"/queue/{APP}", None, 405),
    ("GET", f"/run/{APP}/stream", None, 405),
    ("POST", f"/queue/{APP}/requests/x", GOOD, 405),
    ("GET", f"/queue/{APP}/requests/x/cancel", None, 405),
    ("POST", f"/queue/{APP}/requests", GOOD, 404),
    ("GET", f"/queue/{APP}/requests//status", None, 404),
    ("GET", f"/queue/{APP}/requests/x/logs", None, 404),
    ("GET", f"/queue/{APP}/requests/{'x' * 5000}", None, 404),
    ("GET", f"/queue/{APP}/requests/'; drop table jobs; --", None, 404),
    ("PUT", f"/queue/{APP}/requests/%FF/cancel", None, 404),
    ("POST", "/queue/fal-ai/glm-image-2", GOOD, 404),
    ("POST", "/queue/fal-ai//glm-image", GOOD, 404),
    ("POST", "/queue/FAL-AI/GLM-IMAGE", GOOD, 404),
    ("POST", f"/queue/{APP}/text-to-image", GOOD, 404),
    ("POST", f"/run/{APP}/", {"prompt": ""}, 422),
    ("POST", f"/{APP}", GOOD, 404),
    ("POST", "/rest/tokens/", [], 422),
    ("POST", "/rest/tokens/", {"allowed_apps": None}, 422),
    ("POST", "/rest/tokens/", {"allowed_apps": [""]}, 422),
    ("POST", "/rest/tokens/", {"allowed_apps": ["x" * 300]}, 422),
    ("POST", "/rest/tokens/", {"allowed_apps": ["a"], "token_expiration": -1}, 422),
    ("POST", "/rest/tokens/", {"allowed_apps": ["a"], "token_expiration": HUGE}, 422),
    ("POST", "/rest/storage/upload/initiate", [], 422),
    ("POST", "/rest/storage/upload/initiate", {"file_name": 5}, 400),
    ("POST", "/rest/storage/upload/initiate?storage_type=floppy", {}, 400),
    ("PUT", "/cdn/files/upload/put/nothing?token=x", None, 403),
    ("PUT", "/cdn/files/upload/multipart/nothing/1?token=x", None, 403),
    ("GET", "/cdn/files/b/nothing/a.png", None, 404),
    ("GET", "/cdn/files/b/../../etc/passwd", None, 404),
    ("GET", "/cdn/files/b/%2e%2e/passwd", None, 404),
    ("POST", "/platform/v1/models/pricing/estimate", [], 422),
    ("POST", "/platform/v1/models/pricing/estimate", {"endpoints": 5}, 400),
    ("GET", "/platform/v1/models/usage?start=%00", None, 400),
    ("GET", "/platform/v1/models/usage?start=" + "9" * 12 + "e9", None, 400),
    ("GET", "/platform/v1/models/requests/search?limit=%D9%A1", None, 400),
    ("GET", "/platform/v1/models/requests/search?cursor=%FF", None, 400),
    ("POST", "/api/fal/proxy", GOOD, 400),
]


def test_there_are_enough_of_them():
    assert 2 * len(BODIES) + len(HEADERS) + len(QUERIES) + len(CALLS) >= 120


@pytest.fixture(autouse=True)
def _the_next_good_request_is_taken(server):
    yield
    server.submit()


def only_detail(answer):
    assert answer.status_code == 422, answer.text
    assert answer.headers["x-fal-retryable"] == "false"
    (detail,) = answer.json()["detail"]
    assert detail["msg"]
    assert detail["url"] == f"https://docs.fal.ai/errors#{detail['type']}"
    assert len(answer.content) < 10_000
    return detail


@pytest.mark.parametrize(("content", "kind"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("surface", ["run", "queue"])
def test_bodies(server, content, kind, surface):
    headers = {"content-type": "application/json"}
    answer = server.http.post(f"/{surface}/{APP}", content=content, headers=headers)
    if surface == "queue" and kind == "missing":
        answer = server.result(answer.json()["request_id"])
    detail = only_detail(answer)
    assert detail["type"] == kind
    assert detail["loc"][0] == "body"


@pytest.mark.parametrize(("name", "value"), HEADERS)
def test_headers(server, name, value):
    answer = server.http.post(f"/run/{APP}", json=GOOD, headers={name: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_type"] == "bad_request"


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_queries(server, query):
    answer = server.http.post(f"/queue/{APP}?{query}", json=GOOD)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_type"] == "bad_request"


@pytest.mark.parametrize(("method", "path", "body", "status"), CALLS, ids=range(len(CALLS)))
def test_calls(server, method, path, body, status):
    content = None if body is None else json.dumps(body)
    answer = server.http.request(method, path, content=content)
    assert answer.status_code == status, answer.text
    assert answer.json()
    assert answer.headers["x-fal-request-id"]
