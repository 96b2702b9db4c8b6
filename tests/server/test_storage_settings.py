"""A key's own settings for new files: read, replaced, and followed unless a request says."""

import json
import time

import pytest

SETTINGS = "/platform/v1/storage/settings"
NONE = {"expiration_duration_seconds": None, "initial_acl": None}
HIDDEN = {"default": "hide", "rules": [{"user": "bob", "decision": "allow"}]}
SET = {"expiration_duration_seconds": 120, "initial_acl": HIDDEN}


@pytest.fixture
def own(server):
    """Return the server with a key of the test's own, for which nothing was set."""
    text, key = server.call(server.store.create_key("own"))
    return server, {"authorization": f"Key {text}"}, key


def upload(server, headers, **more):
    answer = server.http.post("/cdn/files/upload", content=b"x", headers={**headers, **more})
    return server.call(server.store.get_file(answer.json()["access_url"].split("/")[-2]))


def lives(record):
    return None if record.expires is None else round(record.expires - record.created)


def test_nothing_is_set_at_first(own):
    server, headers, _ = own
    assert server.http.get(SETTINGS, headers=headers).json() == NONE
    assert lives(upload(server, headers)) == server.settings.upload_lifetime_s


def test_what_is_set_holds_for_uploads_of_this_key(own):
    server, headers, key = own
    answer = server.http.put(SETTINGS, headers=headers, json=SET)
    assert (answer.status_code, answer.json()) == (200, SET)
    assert server.http.get(SETTINGS, headers=headers).json() == SET
    record = upload(server, headers)
    assert (lives(record), record.acl, record.owner) == (120, HIDDEN, key.id)
    assert server.http.get(SETTINGS).json() == NONE
    other = upload(server, {})
    assert (lives(other), other.acl) == (server.settings.upload_lifetime_s, None)


def test_every_way_to_upload_follows(own):
    server, headers, _ = own
    server.http.put(SETTINGS, headers=headers, json=SET)
    initiated = server.http.post("/rest/storage/upload/initiate", headers=headers, json={}).json()
    server.stranger.put(initiated["upload_url"], content=b"x")
    token = server.http.post("/rest/storage/auth/token", headers=headers, json={}).json()["token"]
    bearer = {"authorization": f"Bearer {token}"}
    begun = server.stranger.post("/cdn/files/upload/multipart", headers=bearer).json()
    part = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    etag = server.stranger.put(f"{part}/1", content=b"x").headers["etag"]
    parts = {"parts": [{"partNumber": 1, "etag": etag}]}
    assert server.stranger.post(f"{part}/complete", json=parts).status_code == 200
    for url in (initiated["file_url"], begun["access_url"]):
        record = server.call(server.store.get_file(url.split("/")[-2]))
        assert (lives(record), record.acl) == (120, HIDDEN)


def test_pictures_follow_and_a_request_has_the_last_word(own):
    server, headers, _ = own
    server.http.put(SETTINGS, headers=headers, json=SET)

    def lifecycle(**more):
        request_id = server.submit(headers={**headers, **more})["request_id"]
        server.completed(request_id)
        return server.call(server.store.get(request_id)).lifecycle

    assert lifecycle() == SET
    wish = json.dumps({"expiration_duration_seconds": 0})
    asked = lifecycle(**{"X-Fal-Object-Lifecycle-Preference": wish})
    assert asked == {"expiration_duration_seconds": 0, "initial_acl": HIDDEN}
    wish = json.dumps({"initial_acl": {"default": "allow"}})
    record = upload(server, headers, **{"X-Fal-Object-Lifecycle": wish})
    assert (lives(record), record.acl["default"]) == (120, "allow")


def test_what_is_left_out_is_taken_back(own):
    server, headers, _ = own
    server.http.put(SETTINGS, headers=headers, json=SET)
    answer = server.http.put(SETTINGS, headers=headers, json={"initial_acl": HIDDEN})
    assert answer.json() == {**NONE, "initial_acl": HIDDEN}
    assert server.http.put(SETTINGS, headers=headers, json=NONE).json() == NONE
    record = upload(server, headers)
    assert (lives(record), record.acl) == (server.settings.upload_lifetime_s, None)


def test_another_gateway_hears_of_it(own, monkeypatch):
    server, headers, key = own
    assert server.http.get(SETTINGS, headers=headers).json() == NONE
    server.call(server.store.set_storage_settings(key.id, {"expiration_duration_seconds": 9}))
    now = time.monotonic()
    monkeypatch.setattr("glmimage.server.storage_settings.time.monotonic", lambda: now + 3)
    found = server.http.get(SETTINGS, headers=headers).json()
    assert found == {**NONE, "expiration_duration_seconds": 9}


def test_without_keys_they_are_everybodys(serve):
    server = serve(auth=False)
    assert server.stranger.put(SETTINGS, json=SET).json() == SET
    record = upload(server, {})
    assert (lives(record), record.acl) == (120, HIDDEN)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"expiration_duration_seconds": 0}, 400),
        ({"expiration_duration_seconds": -1}, 400),
        ({"expiration_duration_seconds": 1.5}, 400),
        ({"expiration_duration_seconds": True}, 400),
        ({"expiration_duration_seconds": "1d"}, 400),
        ({"expiration_duration_seconds": 10**11}, 400),
        ({"initial_acl": "hide"}, 400),
        ({"initial_acl": {"default": "perhaps"}}, 400),
        ({"initial_acl": {"default": "hide", "rules": [{"user": "a"}]}}, 400),
        ([], 422),
    ],
)
def test_what_is_wrong_is_said(server, body, status):
    answer = server.http.put(SETTINGS, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert server.http.get(SETTINGS).json() == NONE


def test_strangers_are_refused(server):
    for method in ("GET", "PUT"):
        assert server.stranger.request(method, SETTINGS, json={}).status_code == 401
