"""Reading files: ranges, conditions, expiry, access rules, and types that a browser would run."""

import json
import time

import pytest

from glmimage.policy import FetchLimits, open_policy

CONTENT = bytes(range(256)) * 5000  # more than one chunk of the store


def upload(server, content=CONTENT, content_type="image/png", name="a.png", lifecycle=None):
    headers = {"content-type": content_type, "x-fal-file-name": name}
    if lifecycle is not None:
        headers["x-fal-object-lifecycle"] = json.dumps(lifecycle)
    answer = server.http.post("/cdn/files/upload", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_url"]


def test_a_file_is_public_and_kept_by_caches(server):
    got = server.stranger.get(upload(server))
    assert (got.status_code, got.content) == (200, CONTENT)
    assert got.headers["content-length"] == str(len(CONTENT))
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers.get_list("access-control-allow-origin") == ["*"]
    age = int(got.headers["cache-control"].split("max-age=")[1].split(",")[0])
    assert 6 * 86400 < age <= 7 * 86400
    assert got.headers["cache-control"].startswith("public")


def test_head_tells_the_same_without_the_bytes(server):
    url = upload(server)
    head, got = server.stranger.head(url), server.stranger.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "cache-control", "last-modified"):
        assert head.headers[name] == got.headers[name]
    assert server.stranger.head(url, headers={"range": "bytes=0-9"}).status_code == 206


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=1000000-1199999", 1_000_000, 1_200_000),
        ("bytes=1279999-", 1_279_999, 1_280_000),
        ("bytes=100-99999999999", 100, 1_280_000),
        ("bytes=-1", 1_279_999, 1_280_000),
        ("bytes=-99999999", 0, 1_280_000),
        ("Bytes=5-6", 5, 7),
    ],
)
def test_ranges(server, asked, start, end):
    got = server.stranger.get(upload(server), headers={"range": asked})
    assert got.status_code == 206
    assert got.content == CONTENT[start:end]
    assert got.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert got.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=1280000-", "bytes=9999999-99999999", "bytes=-0"])
def test_ranges_beyond_the_end(server, asked):
    got = server.stranger.get(upload(server), headers={"range": asked})
    assert got.status_code == 416
    assert got.headers["content-range"] == "bytes */1280000"


@pytest.mark.parametrize(
    "asked", ["bytes=9-0", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,4-5", "0-1", ""]
)
def test_unreadable_ranges_give_the_whole(server, asked):
    got = server.stranger.get(upload(server), headers={"range": asked})
    assert (got.status_code, got.content) == (200, CONTENT)


def test_an_empty_file_has_no_range(server):
    url = upload(server, b"")
    assert server.stranger.get(url).content == b""
    assert server.stranger.get(url, headers={"range": "bytes=0-"}).status_code == 416


def test_conditions(server):
    url = upload(server)
    etag = server.stranger.get(url).headers["etag"]
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        got = server.stranger.get(url, headers={"if-none-match": condition})
        assert (got.status_code, got.content) == (304, b"")
        assert got.headers["etag"] == etag
    assert server.stranger.get(url, headers={"if-none-match": '"other"'}).status_code == 200
    part = {"range": "bytes=0-9"}
    assert server.stranger.get(url, headers={**part, "if-range": etag}).status_code == 206
    assert server.stranger.get(url, headers={**part, "if-range": '"other"'}).status_code == 200


def test_an_expired_file_is_not_found_before_it_is_swept(server):
    url = upload(server, lifecycle={"expiration_duration_seconds": 60})
    assert server.stranger.get(url).status_code == 200
    file_id = url.split("/")[-2]
    server.call(server.store.set_file_acl(file_id, None, time.time() - 1))
    gone = server.stranger.get(url)
    assert gone.status_code == 404
    assert gone.json() == {"detail": "There is no such file. It may have expired."}
    assert server.stranger.head(url).status_code == 404


def test_a_file_that_never_expires_is_kept_for_a_year(server):
    url = upload(server, lifecycle={"expiration_duration_seconds": None})
    assert "max-age=31536000" in server.stranger.get(url).headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "nothing/a.png",
        "00000000-0000-0000-0000-000000000000/a.png",
        "..%2F..%2Fglmimage.sqlite3/a",
        "%00/a",
        "a" * 5000 + "/b",
        "ä/ö",
    ],
)
def test_unknown_files_are_not_found(server, path):
    assert server.http.get(f"/cdn/files/b/{path}").status_code == 404


def test_a_lost_blob_is_not_found(server):
    url = upload(server)
    record = server.call(server.store.get_file(url.split("/")[-2]))
    assert server.call(server.files.delete(record.path))
    assert server.stranger.get(url).status_code == 404


def test_the_name_in_the_address_does_not_matter(server):
    url = upload(server)
    assert server.stranger.get(url.replace("a.png", "b.jpeg")).content == CONTENT


def test_hidden_files_are_for_their_owner(server):
    url = upload(server, lifecycle={"initial_acl": {"default": "hide"}})
    assert server.stranger.get(url).status_code == 404
    got = server.http.get(url)
    assert (got.status_code, got.content) == (200, CONTENT)
    assert got.headers["cache-control"].startswith("private")
    text, _ = server.call(server.store.create_key("someone else"))
    other = {"authorization": f"Key {text}"}
    assert server.stranger.get(url, headers=other).status_code == 404


def test_rules_name_other_keys(server):
    text, key = server.call(server.store.create_key("bob"))
    bob = {"authorization": f"Key {text}"}
    for user in (key.id, "bob"):
        url = upload(
            server,
            lifecycle={
                "initial_acl": {"default": "hide", "rules": [{"user": user, "decision": "allow"}]}
            },
        )
        assert server.stranger.get(url, headers=bob).content == CONTENT
        assert server.stranger.get(url).status_code == 404


def test_forbidding_is_told(server):
    url = upload(server, lifecycle={"initial_acl": {"default": "forbid"}})
    got = server.stranger.get(url)
    assert (got.status_code, got.json()) == (
        403,
        {"detail": "This file may not be read with this key."},
    )
    assert server.http.get(url).status_code == 200


def test_a_rule_may_exclude_one_key(server):
    text, _ = server.call(server.store.create_key("mallory"))
    rule = {"user": "mallory", "decision": "forbid"}
    url = upload(server, lifecycle={"initial_acl": {"default": "allow", "rules": [rule]}})
    mallory = {"authorization": f"Key {text}"}
    assert server.stranger.get(url, headers=mallory).status_code == 403
    assert server.stranger.get(url).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", "image/png"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("text/html", None),
        ("image/svg+xml", None),
        ("application/javascript", None),
        ("nonsense", None),
    ],
)
def test_no_upload_acts_as_a_page_of_the_server(server, content_type, shown):
    got = server.stranger.get(upload(server, b"<script>", content_type))
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]
    assert got.headers["content-disposition"].startswith("inline" if shown else "attachment")
    if shown:
        assert got.headers["content-type"] == shown


def test_pictures_of_requests_are_read_the_same_way(server):
    image = server.result(server.submit("a square")["request_id"]).json()["images"][0]
    got = server.stranger.get(image["url"])
    assert (got.headers["content-type"], len(got.content)) == (
        image["content_type"],
        image["file_size"],
    )


def test_uploads_are_references(server):
    """A file uploaded here is found without a request to ourselves, whoever may read it."""
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "png")
    url = upload(server, picture.getvalue(), lifecycle={"initial_acl": {"default": "hide"}})
    body = server.submit("edit it", "fal-ai/glm-image/image-to-image", image_urls=[url])
    assert server.result(body["request_id"]).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"hello", "image_load_error"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "unsupported_image_format"),
        (b"BM" + bytes(30), "image_load_error"),
        (bytes(1_000_001), "file_too_large"),
    ],
)
def test_uploads_that_are_no_pictures_are_refused_as_references(serve, content, kind):
    server = serve(open_policy(reference_limits=FetchLimits(max_bytes=1_000_000)))
    url = upload(server, content)
    body = server.submit("edit it", "fal-ai/glm-image/image-to-image", image_urls=[url])
    answer = server.result(body["request_id"])
    (detail,) = answer.json()["detail"]
    assert (answer.status_code, detail["type"]) == (422, kind)
    assert detail["loc"] == ["body", "image_urls", 0]
    assert server.worker.claimed == []


def test_reads_do_not_wait_for_each_other(server):
    """A reader that stops reading holds up nobody."""
    url = upload(server)
    with server.stranger.stream("GET", url) as slow:
        started = time.monotonic()
        assert server.http.get(url).content == CONTENT
        assert time.monotonic() - started < 5
        assert slow.status_code == 200
