"""Tokens and the WebSocket (spec 10)."""

import json
import time

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from glmimage.server.fal.tokens import read_token, sign

APP = "fal-ai/glm-image"
BODY = {"prompt": "a square", "image_size": "square"}


def token_of(server, **fields):
    answer = server.http.post("/rest/tokens/", json={"allowed_apps": ["glm-image"], **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def socket(server, query="", **options):
    base = server.url.replace("http", "ws")
    return connect(f"{base}/run/{APP}/realtime{query}", proxy=None, **options)


def test_a_token_is_a_bare_string(server):
    token = token_of(server, token_expiration=60)
    assert isinstance(token, str)
    claims = read_token(token, server.services.secret)
    assert claims["sub"] == server.key_record.id
    assert 55 < claims["exp"] - time.time() <= 60


def test_the_other_form_of_asking_for_a_token(server):
    body = {"allowed_apps": ["glm-image"], "duration": 30}
    answer = server.http.post("/rest/tokens/realtime", json=body)
    assert isinstance(answer.json(), str)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"allowed_apps": []},
        {"allowed_apps": "glm-image"},
        {"allowed_apps": [5]},
        {"allowed_apps": ["glm-image"], "token_expiration": 0},
        {"allowed_apps": ["glm-image"], "token_expiration": 10**9},
        {"allowed_apps": ["glm-image"], "token_expiration": "soon"},
    ],
)
def test_bad_token_requests(server, body):
    answer = server.http.post("/rest/tokens/", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_a_token_needs_a_key(server):
    body = {"allowed_apps": ["glm-image"]}
    assert server.stranger.post("/rest/tokens/", json=body).status_code == 401


def test_requests_over_a_socket(server):
    with socket(server, f"?fal_jwt_token={token_of(server)}&max_buffering=2") as connection:
        for seed in (1, 2):
            connection.send(msgpack.packb({**BODY, "seed": seed}))
            assert msgpack.unpackb(connection.recv(timeout=10))["seed"] == seed


def test_a_key_opens_a_socket_too(server):
    headers = {"authorization": f"Key {server.key}"}
    with socket(server, additional_headers=headers) as connection:
        connection.send(json.dumps(BODY))
        assert len(msgpack.unpackb(connection.recv(timeout=10))["images"]) == 1


@pytest.mark.parametrize("message", [b"\xc1", b"\x81\x01\x02", b"", b"\x05", "{", "[]", "5"])
def test_messages_that_cannot_be_read(server, message):
    with socket(server, f"?fal_jwt_token={token_of(server)}") as connection:
        connection.send(message)
        answer = json.loads(connection.recv(timeout=10))
        assert (answer["type"], answer["error"]) == ("x-fal-error", "INVALID_MESSAGE")
        connection.send(msgpack.packb(BODY))
        assert isinstance(connection.recv(timeout=10), bytes)


def test_an_invalid_input_is_an_error_message(server):
    with socket(server, f"?fal_jwt_token={token_of(server)}") as connection:
        connection.send(msgpack.packb({"prompt": b"bytes", "extra": msgpack.Timestamp(1)}))
        answer = json.loads(connection.recv(timeout=10))
        assert answer["error"] == "string_type"
        assert answer["detail"][0]["loc"] == ["body", "prompt"]


def test_who_closes_the_socket_cancels_the_work(held):
    with socket(held, f"?fal_jwt_token={token_of(held)}") as connection:
        connection.send(msgpack.packb({**BODY, "prompt": "slow"}))
        job = held.until(
            lambda: next(
                (
                    j
                    for j in held.worker.claimed
                    if j.surface == "realtime" and "slow" in j.input["prompt"]
                ),
                None,
            )
        )
    held.until(lambda: held.call(held.store.get(job.id)).state == "cancelled")


def test_silence_ends_with_a_timeout_message(server, monkeypatch):
    monkeypatch.setattr("glmimage.server.fal.realtime.IDLE_S", 0.05)
    with socket(server, f"?fal_jwt_token={token_of(server)}") as connection:
        answer = json.loads(connection.recv(timeout=10))
        assert answer["error"] == "TIMEOUT"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
        assert closed.value.rcvd.code == 1000


def tokens_that_open_nothing(server):
    secret, later = server.services.secret, int(time.time()) + 60
    good = {"apps": ["glm-image"], "sub": server.key_record.id, "exp": later}
    head, _, _ = sign(good, secret).partition(".")
    return {
        "none": "",
        "nonsense": "?fal_jwt_token=abc",
        "two parts": f"?fal_jwt_token={head}.e30",
        "expired": f"?fal_jwt_token={sign({**good, 'exp': 1}, secret)}",
        "other app": f"?fal_jwt_token={sign({**good, 'apps': ['other']}, secret)}",
        "other secret": f"?fal_jwt_token={sign(good, b'not the secret at all')}",
        "unknown key": f"?fal_jwt_token={sign({**good, 'sub': 'nobody'}, secret)}",
    }


def test_sockets_without_a_right_are_refused(server):
    for name, query in tokens_that_open_nothing(server).items():
        with pytest.raises(InvalidStatus, match="403"), socket(server, query):
            pytest.fail(f"{name} opened a socket")


@pytest.mark.parametrize("value", ["0", "61", "many", "-1"])
def test_bad_buffering(server, value):
    query = f"?fal_jwt_token={token_of(server)}&max_buffering={value}"
    with pytest.raises(InvalidStatus), socket(server, query):
        pytest.fail("it opened")


def test_unknown_sockets(server):
    base = server.url.replace("http", "ws")
    headers = {"authorization": f"Key {server.key}"}
    for path in ("/run/fal-ai/other/realtime", f"/queue/{APP}", "/"):
        with pytest.raises(InvalidStatus), connect(base + path, additional_headers=headers):
            pytest.fail("it opened")


def test_a_token_opens_a_stream_without_a_key(server):
    token = token_of(server)
    answer = server.stranger.post(f"/run/{APP}/stream?fal_jwt_token={token}", json=BODY)
    assert answer.status_code == 200
    refused = server.stranger.post(f"/run/{APP}?fal_jwt_token={token}", json=BODY)
    assert refused.status_code == 401


def test_a_revoked_key_takes_its_tokens_along(server):
    text, key = server.call(server.store.create_key("brief"))
    headers = {"authorization": f"Key {text}"}
    body = {"allowed_apps": ["glm-image"]}
    token = server.http.post("/rest/tokens/", json=body, headers=headers).json()
    server.call(server.store.revoke_key(key.id))
    answer = server.stranger.post(f"/run/{APP}/stream?fal_jwt_token={token}", json=BODY)
    assert answer.status_code == 401
