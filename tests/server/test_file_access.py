"""Who may read a stored file, asked and changed by its owner, and signed addresses (spec 14)."""

import time

import pytest

ACL = "/platform/v1/storage/files/acl"
SIGN = "/platform/v1/storage/files/sign"


@pytest.fixture
def url(server):
    headers = {"content-type": "image/png", "x-fal-file-name": "a.png"}
    answer = server.http.post("/cdn/files/upload", content=b"a file", headers=headers)
    return answer.json()["access_url"]


@pytest.fixture
def other(server):
    """Return the headers of another key."""
    text, _ = server.call(server.store.create_key("another"))
    return {"authorization": f"Key {text}"}


def test_what_an_owner_sets_holds_at_once(server, url, other):
    query = {"url": url}
    assert server.http.get(ACL, params=query).json() == {"default": "allow", "rules": []}
    for decision, status in (("hide", 404), ("forbid", 403)):
        answer = server.http.put(ACL, params=query, json={"default": decision})
        assert answer.json() == {"default": decision, "rules": []}
        assert server.http.get(ACL, params=query).json() == answer.json()
        assert server.stranger.get(url).status_code == status
        assert server.http.get(url).content == b"a file"
    rules = [{"user": "another", "decision": "allow"}]
    answer = server.http.put(ACL, params=query, json={"default": "hide", "rules": rules})
    assert answer.json()["rules"] == rules
    assert server.http.get(url, headers=other).status_code == 200
    server.http.put(ACL, params=query, json={"default": "allow"})
    assert server.stranger.get(url).headers["cache-control"].startswith("public")


def test_a_signed_address_opens_one_file_for_a_while(server, url, monkeypatch):
    server.http.put(ACL, params={"url": url}, json={"default": "hide"})
    answer = server.http.post(SIGN, params={"url": url}, json={"expiration_seconds": 60})
    signed = answer.json()["url"]
    assert signed.startswith(f"{url}?identity=")
    got = server.stranger.get(signed)
    assert (got.status_code, got.content) == (200, b"a file")
    assert got.headers["cache-control"].startswith("private")
    assert server.stranger.head(signed).status_code == 200
    assert server.stranger.get(f"{signed}x").status_code == 404
    upload = server.http.post("/cdn/files/upload", content=b"b", headers={"x-fal-file-name": "b"})
    elsewhere = upload.json()["access_url"]
    server.http.put(ACL, params={"url": elsewhere}, json={"default": "hide"})
    assert server.stranger.get(elsewhere + signed[len(url) :]).status_code == 404
    now = time.time()
    monkeypatch.setattr("glmimage.server.signing.time.time", lambda: now + 61)
    assert server.stranger.get(signed).status_code == 404


def test_a_painted_picture_is_its_askers(server, other):
    result = server.result(server.submit("a square")["request_id"]).json()
    query = {"url": result["images"][0]["url"]}
    owner = server.http.get(ACL, params=query)
    stranger = server.http.get(ACL, params=query, headers=other)
    assert (owner.status_code, stranger.status_code) == (200, 404)


def test_only_the_owner_asks(server, url, other):
    for method, path, body in (("GET", ACL, None), ("PUT", ACL, {"default": "hide"})):
        for headers, status in ((other, 404), ({"authorization": "Key wrong"}, 401)):
            answer = server.http.request(
                method, path, params={"url": url}, json=body, headers=headers
            )
            assert answer.status_code == status
    assert server.http.post(SIGN, params={"url": url}, json={}, headers=other).status_code == 404
    assert server.stranger.get(url).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status"),
    [
        ("GET", ACL, {}, None, 400),
        ("GET", ACL, {"url": ""}, None, 400),
        ("GET", ACL, {"url": "{url}?a=1"}, None, 400),
        ("GET", ACL, {"url": "{url}#a"}, None, 400),
        ("GET", ACL, {"url": "https://example.org/cdn/files/b/1/a.png"}, None, 404),
        ("GET", ACL, {"url": "http://[::1"}, None, 400),
        ("PUT", ACL, {"url": "{url}"}, {}, 400),
        ("PUT", ACL, {"url": "{url}"}, {"default": "perhaps"}, 400),
        ("PUT", ACL, {"url": "{url}"}, {"default": "hide", "rules": [{"user": "a"}]}, 400),
        ("PUT", ACL, {"url": "{url}"}, [], 422),
        ("POST", SIGN, {"url": "{url}"}, {"expiration_seconds": 0}, 400),
        ("POST", SIGN, {"url": "{url}"}, {"expiration_seconds": 604801}, 400),
        ("POST", SIGN, {"url": "{url}"}, {"expiration_seconds": True}, 400),
        ("POST", SIGN, {"url": "{url}"}, {"expiration_seconds": 1.5}, 400),
    ],
)
def test_what_is_wrong_is_said(server, url, method, path, query, body, status):
    query = {name: value.replace("{url}", url) for name, value in query.items()}
    answer = server.http.request(method, path, params=query, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]
