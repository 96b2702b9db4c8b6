"""The five ways of uploading a file (spec 11), as the clients do them, and as they should not."""

import datetime
import json
import time
from urllib.parse import urlsplit

import pytest

from glmimage.server.fal.uploads import clean_name

CONTENT = bytes(range(256)) * 40


def token_of(server, **headers):
    """Ask for a token as the Python client does."""
    answer = server.http.post(
        "/rest/storage/auth/token", params={"storage_type": "fal-cdn-v3"}, json={}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(token):
    return {"authorization": f"{token['token_type']} {token['token']}"}


def initiate(server, kind="initiate", storage_type="fal-cdn-v3", headers=None, **body):
    body = {"file_name": "a cat.png", "content_type": "image/png"} | body
    query = {"storage_type": storage_type} if storage_type else {}
    answer = server.http.post(
        f"/rest/storage/upload/{kind}", params=query, json=body, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def part_url(upload_url, suffix):
    """Put a part's number into the path and keep the query, as the JavaScript client does."""
    parts = urlsplit(upload_url)
    return parts._replace(path=f"{parts.path}/{suffix}").geturl()


def put_parts(server, address, contents):
    """Send numbered parts as a stranger and return what must be listed."""
    listed = []
    for number, content in contents:
        answer = server.stranger.put(address(number), content=content)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["partNumber"] == number
        assert body["etag"] == answer.headers["etag"]
        listed.append({"partNumber": number, "etag": body["etag"]})
    return listed


def test_token_is_what_the_python_client_reads(server):
    token = token_of(server)
    assert token["token_type"] == "Bearer"
    assert token["base_url"] == f"{server.url}/cdn"
    expires = datetime.datetime.fromisoformat(token["expires_at"])
    assert expires.utcoffset() == datetime.timedelta(0)
    assert not token["expires_at"].endswith("Z")
    left = expires - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=30) < left < datetime.timedelta(hours=1)


def test_upload_with_a_token(server):
    """Spec 11.1: the token, and the bytes with the name in a header."""
    answer = server.stranger.post(
        "/cdn/files/upload",
        content=CONTENT,
        headers={
            **bearer(token_of(server)),
            "content-type": "image/png",
            "x-fal-file-name": "a cat.png",
        },
    )
    url = answer.json()["access_url"]
    assert url.startswith(f"{server.url}/cdn/files/b/")
    assert url.endswith("/a%20cat.png")
    got = server.stranger.get(url)
    assert got.content == CONTENT
    assert got.headers["content-type"] == "image/png"


def test_upload_with_the_key_itself(server):
    answer = server.http.post("/cdn/files/upload", content=b"x")
    got = server.stranger.get(answer.json()["access_url"])
    assert (got.content, got.headers["content-type"]) == (b"x", "application/octet-stream")


def test_upload_under_fals_own_host_names(server):
    """Behind a CONNECT proxy the Host says which service is meant, and the path has no prefix."""
    token = server.http.post("/storage/auth/token", json={}, headers={"host": "rest.fal.ai"}).json()
    answer = server.stranger.post(
        "/files/upload", content=b"x", headers={**bearer(token), "host": "v3.fal.media"}
    )
    assert server.stranger.get(answer.json()["access_url"]).content == b"x"


def test_multipart_of_the_python_client(server):
    """Spec 11.2: parts arrive and are listed in any order; the etag comes back as it was given."""
    token = token_of(server)
    begun = server.stranger.post(
        f"{token['base_url']}/files/upload/multipart",
        headers={
            **bearer(token),
            "content-type": "video/mp4",
            "x-fal-file-name": "film.mp4",
        },
    ).json()
    base = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    assert server.stranger.get(begun["access_url"]).status_code == 404
    contents = {number: bytes([number]) * 70_000 for number in (1, 2, 3, 11)}
    listed = put_parts(
        server, lambda number: f"{base}/{number}", [(n, contents[n]) for n in (11, 1, 3, 2)]
    )
    for _ in range(2):  # the client repeats the call when it hears no answer
        done = server.stranger.post(f"{base}/complete", json={"parts": listed})
        assert done.status_code == 200, done.text
    got = server.stranger.get(begun["access_url"])
    assert got.content == b"".join(contents[number] for number in sorted(contents))
    assert got.headers["content-type"] == "video/mp4"
    assert server.call(_paths(server, "parts")) == []


@pytest.mark.parametrize("storage_type", ["gcs", "fal-cdn-v3", ""])
def test_upload_to_an_address(server, storage_type):
    """Spec 11.3, 11.4, and the old JavaScript client, which names no storage type."""
    address = initiate(server, storage_type=storage_type)
    assert server.stranger.get(address["file_url"]).status_code == 404
    # the Python client sends its key along, the JavaScript client nothing
    client = server.http if storage_type == "gcs" else server.stranger
    assert client.put(address["upload_url"], content=CONTENT).status_code == 200
    got = server.stranger.get(address["file_url"])
    assert (got.content, got.headers["content-type"]) == (CONTENT, "image/png")


def test_multipart_of_the_javascript_client(server):
    address = initiate(server, "initiate-multipart", file_name="big.bin")
    listed = put_parts(
        server,
        lambda number: part_url(address["upload_url"], number),
        [(1, b"a" * 100_000), (2, b"b")],
    )
    done = server.stranger.post(part_url(address["upload_url"], "complete"), json={"parts": listed})
    assert done.status_code == 200, done.text
    assert server.stranger.get(address["file_url"]).content == b"a" * 100_000 + b"b"


def test_a_part_that_is_sent_again_replaces_the_first(server):
    address = initiate(server, "initiate-multipart")
    url = part_url(address["upload_url"], 1)
    put_parts(server, lambda number: url, [(1, b"broken")])
    listed = put_parts(server, lambda number: url, [(1, b"right")])
    server.stranger.post(part_url(address["upload_url"], "complete"), json={"parts": listed})
    assert server.stranger.get(address["file_url"]).content == b"right"


def test_an_address_works_once(server):
    address = initiate(server)
    assert server.stranger.put(address["upload_url"], content=b"first").status_code == 200
    again = server.stranger.put(address["upload_url"], content=b"second")
    assert (again.status_code, again.json()["detail"]) == (
        403,
        "This upload address has been used already.",
    )
    assert server.stranger.get(address["file_url"]).content == b"first"


def test_defaults_of_an_address(server):
    answer = server.http.post("/rest/storage/upload/initiate", json={})
    address = answer.json()
    assert address["file_url"].endswith("/upload.bin")
    server.stranger.put(address["upload_url"], content=b"x")
    got = server.stranger.get(address["file_url"])
    assert got.headers["content-type"] == "application/octet-stream"


def test_uploads_belong_to_the_key(server):
    address = initiate(server)
    server.stranger.put(address["upload_url"], content=b"x")
    file_id = address["file_url"].split("/")[-2]
    record = server.call(server.store.get_file(file_id))
    assert (record.owner, record.kind) == (server.key_record.id, "upload")
    assert record.expires == pytest.approx(time.time() + 7 * 86400, abs=60)


@pytest.mark.parametrize(("seconds", "expires"), [(3600, 3600), (0, None), (None, None)])
def test_lifecycle_sets_the_expiry(server, seconds, expires):
    lifecycle = json.dumps({"expiration_duration_seconds": seconds})
    for name in ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"):
        address = initiate(server, headers={name: lifecycle})
        server.stranger.put(address["upload_url"], content=b"x")
        record = server.call(server.store.get_file(address["file_url"].split("/")[-2]))
        if expires is None:
            assert record.expires is None
        else:
            assert record.expires == pytest.approx(time.time() + expires, abs=60)


@pytest.mark.parametrize(
    "lifecycle", ["{", "[]", '{"expiration_duration_seconds": "soon"}', "9" * 3000]
)
def test_a_wrong_lifecycle_is_refused(server, lifecycle):
    headers = {"x-fal-object-lifecycle": lifecycle}
    answer = server.http.post("/rest/storage/upload/initiate", json={}, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
    answer = server.http.post("/cdn/files/upload", content=b"x", headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/rest/storage/auth/token",
        "/rest/storage/upload/initiate",
        "/rest/storage/upload/initiate-multipart",
        "/cdn/files/upload",
        "/cdn/files/upload/multipart",
    ],
)
def test_strangers_cannot_begin(server, path):
    for headers in ({}, {"authorization": "Bearer abc.def"}, {"authorization": "Key wrong"}):
        answer = server.stranger.post(path, json={}, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"detail": "invalid key credentials"})


def changed(part: str) -> str:
    """Return another text of the same length: the first letter is never what it was."""
    return ("B" if part[0] == "A" else "A") + part[1:]


def test_forged_addresses_are_refused(server):
    one, other = initiate(server), initiate(server)
    multipart = initiate(server, "initiate-multipart")
    good = urlsplit(one["upload_url"])
    signed, _, mac = good.query.removeprefix("token=").partition(".")
    for url in (
        good._replace(query="").geturl(),
        good._replace(query="token=").geturl(),
        good._replace(query=f"token={signed}").geturl(),
        good._replace(query=f"token={signed}.{changed(mac)}").geturl(),
        good._replace(query=f"token={changed(signed)}.{mac}").geturl(),
        good._replace(query=f"token={signed}.%C3%A4").geturl(),
        # the right token at another file, and of another kind
        good._replace(path=urlsplit(other["upload_url"]).path).geturl(),
        good._replace(query=urlsplit(multipart["upload_url"]).query).geturl(),
    ):
        assert server.stranger.put(url, content=b"x").status_code == 403
    assert server.stranger.put(one["upload_url"], content=b"x").status_code == 200


def test_an_address_ends(server, monkeypatch):
    monkeypatch.setattr("glmimage.server.fal.storage.UPLOAD_LIFETIME_S", -1.0)
    address = initiate(server)
    assert server.stranger.put(address["upload_url"], content=b"x").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"parts": []},
        {"parts": "1"},
        {"parts": [1]},
        {"parts": [{}]},
        {"parts": [{"partNumber": 1}]},
        {"parts": [{"partNumber": "1", "etag": '"' + "a" * 32 + '"'}]},
        {"parts": [{"partNumber": True, "etag": "a" * 32}]},
        {"parts": [{"partNumber": 0, "etag": "a" * 32}]},
        {"parts": [{"partNumber": 10**9, "etag": "a" * 32}]},
        {"parts": [{"partNumber": 1, "etag": "../../etc/passwd"}]},
        {"parts": [{"partNumber": 1, "etag": "a" * 32}]},
        {"parts": [{"partNumber": 1, "etag": "a" * 32}] * 2},
        {"parts": [{"partNumber": 1, "etag": "a" * 32}] * 10_001},
    ],
)
def test_wrong_lists_of_parts_are_refused(server, body):
    address = initiate(server, "initiate-multipart")
    url = part_url(address["upload_url"], "complete")
    answer = server.stranger.post(url, json=body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("number", ["0", "-1", "x", "10001", "99999999999999999999", "1.5", "%20"])
def test_wrong_part_numbers_are_refused(server, number):
    address = initiate(server, "initiate-multipart")
    answer = server.stranger.put(part_url(address["upload_url"], number), content=b"x")
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"file_name": 1}', b'{"content_type": []}', b"\xff"]
)
def test_wrong_bodies_are_refused(server, body):
    answer = server.http.post("/rest/storage/upload/initiate", content=body)
    assert answer.status_code in (400, 422), answer.text


def test_an_unknown_storage_type_is_refused(server):
    for path in ("auth/token", "upload/initiate", "upload/initiate-multipart"):
        answer = server.http.post(
            f"/rest/storage/{path}", params={"storage_type": "floppy"}, json={}
        )
        assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")


def test_files_have_a_largest_size(serve):
    server = serve(max_upload_bytes=1000)
    address = initiate(server)
    assert server.stranger.put(address["upload_url"], content=bytes(1001)).status_code == 413

    def unannounced():
        yield bytes(600)
        yield bytes(600)

    answer = server.stranger.put(address["upload_url"], content=unannounced())
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "The file has more than 1000 bytes. Send a smaller file.",
    )
    assert server.stranger.put(address["upload_url"], content=bytes(1000)).status_code == 200
    assert server.call(_paths(server)) == [
        f"uploads/{address['file_url'].split('/')[-2][:2]}/{address['file_url'].split('/')[-2]}"
    ]


def test_parts_together_have_a_largest_size(serve):
    server = serve(max_upload_bytes=1000)
    address = initiate(server, "initiate-multipart")
    listed = put_parts(
        server,
        lambda number: part_url(address["upload_url"], number),
        [(1, bytes(600)), (2, bytes(600))],
    )
    done = server.stranger.post(part_url(address["upload_url"], "complete"), json={"parts": listed})
    assert done.status_code == 413
    assert server.stranger.get(address["file_url"]).status_code == 404


def test_a_full_disk_is_told(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glmimage.files.local._finish", full)
    answer = server.http.post("/cdn/files/upload", content=b"x")
    assert answer.status_code == 503
    assert answer.json() == {
        "detail": "The server has no space left for files. Try again later.",
        "error_type": "runner_connection_error",
    }
    assert answer.headers["x-fal-error-type"] == "runner_connection_error"
    assert answer.headers["x-fal-retryable"] == "true"
    assert int(answer.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert server.http.post("/cdn/files/upload", content=b"x").status_code == 200


def test_without_keys_anybody_uploads(serve):
    server = serve(auth=False)
    answer = server.stranger.post("/cdn/files/upload", content=b"x")
    assert server.stranger.get(answer.json()["access_url"]).content == b"x"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat.png", "cat.png"),
        ("/home/me/cat.png", "cat.png"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("..", "upload.bin"),
        ("", "upload.bin"),
        (None, "upload.bin"),
        ("a?b#c&d.png", "a_b_c_d.png"),
        ("a\r\nb.png", "a__b.png"),
        ("Käse 猫.png", "Käse 猫.png"),
        ("x" * 300 + ".jpeg", "x" * 115 + ".jpeg"),
        ("x" * 300, "x" * 120),
        (".hidden", "hidden"),
    ],
)
def test_names_are_cleaned(given, kept):
    assert clean_name(given) == kept


async def _paths(server, prefix=""):
    return [info.path async for info in server.files.list(prefix)]
