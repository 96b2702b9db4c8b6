"""Files that clients read from the bucket, and store there, by themselves."""

import json
import re
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from glmimage.jobs import AWAITED
from glmimage.server import sweeper
from glmimage.server.arrivals import incoming_path

from ..faults.bucket import CREDENTIALS, Bucket
from .conftest import ENDPOINT, Server

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(scope="module")
def bucket():
    with Bucket() as running:
        yield running


@pytest.fixture(scope="module")
def straight(tmp_path_factory, bucket):
    """Serve with files in the bucket, whose clients go there themselves."""
    folder = tmp_path_factory.mktemp("straight")
    options = {"files_url": bucket.url, "files_access": "bucket", "max_upload_bytes": 2_000_000}
    with Server(folder, **options) as running:
        running.call(running.app.sweeper.stop())
        yield running


@pytest.fixture(scope="module")
def browser():
    """A client of its own, which knows no key of the server's."""
    with httpx.Client(timeout=20) as client:
        yield client


def initiate(server, storage_type="fal-cdn-v3", lifecycle=None, **body):
    body = {"file_name": "a cat.png", "content_type": "image/png"} | body
    headers = {"x-fal-object-lifecycle": json.dumps(lifecycle)} if lifecycle else None
    query = {"storage_type": storage_type} if storage_type else {}
    answer = server.http.post(
        "/rest/storage/upload/initiate", params=query, json=body, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["upload_url"], answer.json()["file_url"]


def put(browser, url, content=CONTENT, content_type="image/png"):
    headers = {"content-type": content_type} if content_type else {}
    answer = browser.put(url, content=content, headers=headers)
    assert answer.status_code == 200, answer.text


def record_of(server, file_url):
    return server.call(server.store.get_file(urlsplit(file_url).path.split("/")[-2]))


def objects(server):
    async def listed():
        return {info.path: info async for info in server.files.list()}

    return server.call(listed())


def seconds_of(url):
    return int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0])


def is_in(bucket, url):
    return url.startswith(f"{bucket.address}/{bucket.name}/files/")


def test_a_picture_is_read_from_the_bucket(straight, bucket, browser):
    image = straight.result(straight.submit(seed=3)["request_id"]).json()["images"][0]
    assert image["url"].startswith(straight.url)  # which lasts as long as the picture
    led = straight.stranger.get(image["url"])
    assert led.status_code == 307
    there = led.headers["location"]
    assert is_in(bucket, there)
    assert seconds_of(there) == 600
    assert led.headers["cache-control"] == "public, max-age=300"
    got = browser.get(there)
    assert (got.status_code, len(got.content)) == (200, image["file_size"])
    followed = browser.get(image["url"], follow_redirects=True, headers={"range": "bytes=0-3"})
    assert (followed.status_code, followed.content) == (206, got.content[:4])


def test_the_address_is_signed_as_amazon_signs(straight, monkeypatch):
    """The whole address against botocore's, made at the same second."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    for method in ("GET", "PUT"):
        url = straight.call(straight.files.sign(method, "uploads/ab/a=b-c.png", 77.9))
        parts = urlsplit(url)
        given = {name: value[0] for name, value in parse_qs(parts.query).items()}
        assert given["X-Amz-Expires"] == "77"
        request = AWSRequest(method, parts._replace(query="").geturl())
        request.context["timestamp"] = given["X-Amz-Date"]
        signer = S3SigV4QueryAuth(Credentials(*CREDENTIALS.values()), "s3", "us-east-1", 77)
        monkeypatch.setattr(signer, "_modify_request_before_signing", lambda request: None)
        request.url += "?" + "&".join(
            pair for pair in parts.query.split("&") if not pair.startswith("X-Amz-Signature")
        )
        canonical = signer.canonical_request(request)
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        assert signature == given["X-Amz-Signature"]


def test_the_server_itself_answers_what_needs_no_bytes(straight, browser):
    upload_url, url = initiate(straight)
    put(browser, upload_url)
    head = straight.stranger.head(url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    etag = head.headers["etag"]
    assert straight.stranger.get(url, headers={"if-none-match": etag}).status_code == 304
    beyond = straight.stranger.get(url, headers={"range": "bytes=1280000-"})
    assert beyond.status_code == 416


def test_nobody_reads_beyond_the_time_of_a_file(straight, browser):
    upload_url, url = initiate(straight, lifecycle={"expiration_duration_seconds": 90})
    put(browser, upload_url)
    there = straight.stranger.get(url).headers["location"]
    assert 60 < seconds_of(there) <= 90
    record = record_of(straight, url)
    straight.call(straight.store.set_file_acl(record.id, None, time.time() - 1))
    assert straight.stranger.get(url).status_code == 404


def test_hidden_files_are_led_to_for_their_owner_only(straight, bucket, browser):
    upload_url, url = initiate(straight, lifecycle={"initial_acl": {"default": "hide"}})
    put(browser, upload_url)
    assert straight.stranger.get(url).status_code == 404
    led = straight.http.get(url)
    assert (led.status_code, led.headers["cache-control"]) == (307, "no-store")
    assert seconds_of(led.headers["location"]) == 60
    # the key stays here: a bucket refuses two kinds of authorisation at once
    assert browser.get(led.headers["location"]).content == CONTENT
    key = dict(straight.http.headers)["authorization"]
    followed = httpx.get(url, headers={"authorization": key}, follow_redirects=True)
    assert followed.content == CONTENT
    assert "authorization" not in followed.request.headers


@pytest.mark.parametrize("storage_type", ["fal-cdn-v3", "fal-cdn", ""])
def test_an_upload_goes_to_the_bucket(straight, bucket, browser, storage_type):
    upload_url, url = initiate(straight, storage_type)
    assert is_in(bucket, upload_url)
    assert seconds_of(upload_url) == 3600
    assert straight.stranger.get(url).status_code == 404  # it has not come
    put(browser, upload_url)
    followed = browser.get(url, follow_redirects=True)
    assert (followed.content, followed.headers["content-type"]) == (CONTENT, "image/png")
    record = record_of(straight, url)
    assert (record.kind, record.size, record.name) == ("upload", len(CONTENT), "a cat.png")


def test_a_file_never_changes_under_its_address(straight, browser):
    """The bucket's address takes more than one file; what was read once stays."""
    upload_url, url = initiate(straight)
    put(browser, upload_url, b"early")
    put(browser, upload_url, b"first")
    assert browser.get(url, follow_redirects=True).content == b"first"
    put(browser, upload_url, b"second")
    assert browser.get(url, follow_redirects=True).content == b"first"
    record = record_of(straight, url)
    assert straight.files.origin in upload_url
    assert {record.path, incoming_path(record.id)} <= objects(straight).keys()


@pytest.mark.parametrize("sent", ["text/html", None])
def test_the_announced_type_is_what_readers_are_told(straight, browser, sent):
    upload_url, url = initiate(straight)
    put(browser, upload_url, content_type=sent)
    followed = browser.get(url, follow_redirects=True)
    assert (followed.content, followed.headers["content-type"]) == (CONTENT, "image/png")
    assert not any(
        record_of(straight, url).id in path for path in objects(straight) if "incom" in path
    )


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/pdf"])
def test_what_a_browser_would_run_is_sent_by_the_server(straight, browser, content_type):
    upload_url, url = initiate(straight, content_type=content_type)
    put(browser, upload_url, content_type=content_type)
    got = straight.stranger.get(url)
    assert (got.status_code, got.content) == (200, CONTENT)
    assert got.headers["content-disposition"].startswith("attachment")


def test_an_upload_that_is_too_large_is_deleted(straight, browser):
    upload_url, url = initiate(straight)
    put(browser, upload_url, bytes(2_000_001))
    assert straight.stranger.get(url).status_code == 404
    file_id = urlsplit(url).path.split("/")[-2]
    assert straight.call(straight.store.get_file(file_id)) is None
    assert not any(file_id in path for path in objects(straight))


def test_an_upload_is_a_reference_at_once(straight, browser):
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "png")
    upload_url, url = initiate(straight)
    put(browser, upload_url, content.getvalue())
    body = straight.submit(
        "a bluer square", endpoint=f"{ENDPOINT}/image-to-image", image_urls=[url]
    )
    assert straight.result(body["request_id"]).status_code == 200
    absent = initiate(straight)[1]
    refused = straight.submit(
        "a greener square", endpoint=f"{ENDPOINT}/image-to-image", image_urls=[absent]
    )
    answer = straight.result(refused["request_id"])
    assert answer.status_code == 422
    assert "There is no file" in answer.json()["detail"][0]["msg"]


def test_clients_that_cannot_go_straight_store_through_the_server(straight, browser):
    """fal's Python client: its key would come along, and its parts have addresses of ours."""
    upload_url, url = initiate(straight, "gcs")
    assert upload_url.startswith(straight.url)
    assert straight.http.put(upload_url, content=CONTENT).status_code == 200
    assert browser.get(url, follow_redirects=True).content == CONTENT
    named = {"x-fal-file-name": "b.png", "content-type": "image/png"}
    answer = straight.http.post("/cdn/files/upload", content=CONTENT, headers=named)
    followed = browser.get(answer.json()["access_url"], follow_redirects=True)
    assert followed.content == CONTENT
    assert followed.headers["content-type"] == "image/png"
    assert followed.headers["content-disposition"] == "inline; filename*=UTF-8''b.png"


def test_multipart_uploads_go_through_the_server(straight, browser):
    body = {"file_name": "film.mp4", "content_type": "video/mp4"}
    begun = straight.http.post("/rest/storage/upload/initiate-multipart", json=body).json()
    parts = urlsplit(begun["upload_url"])
    assert begun["upload_url"].startswith(straight.url)

    def at(suffix):
        return parts._replace(path=f"{parts.path}/{suffix}").geturl()

    listed = [
        straight.stranger.put(at(number), content=bytes([number]) * 70_000).json()
        for number in (2, 1)
    ]
    done = straight.stranger.post(at("complete"), json={"parts": listed})
    assert done.status_code == 200, done.text
    followed = browser.get(begun["file_url"], follow_redirects=True)
    assert followed.content == b"\1" * 70_000 + b"\2" * 70_000
    assert followed.headers["content-type"] == "video/mp4"


def test_the_page_may_talk_to_the_bucket(straight, bucket):
    policy = straight.stranger.get("/").headers["content-security-policy"]
    for rule in ("img-src", "connect-src"):
        assert bucket.address in re.search(f"{rule} ([^;]*)", policy)[1].split()


def test_uploads_that_nobody_asked_for_are_written_down_in_the_end(straight, browser, monkeypatch):
    came, absent = initiate(straight), initiate(straight)
    put(browser, came[0], b"abc")
    straight.call(straight.app.sweeper.take_in_uploads())
    assert record_of(straight, came[1]).kind == AWAITED  # its address still works
    monkeypatch.setattr(sweeper, "UPLOAD_LIFETIME_S", -1.0)
    straight.call(straight.app.sweeper.take_in_uploads())
    record = record_of(straight, came[1])
    assert (record.kind, record.size) == ("upload", 3)
    assert record_of(straight, absent[1]) is None
    figures = straight.call(straight.store.file_figures())
    assert AWAITED not in figures


def test_what_was_stored_and_never_asked_for_expires_too(straight, browser):
    upload_url, url = initiate(straight, lifecycle={"expiration_duration_seconds": 60})
    put(browser, upload_url)
    record = record_of(straight, url)
    straight.call(straight.store.set_file_acl(record.id, None, time.time() - 1))
    straight.call(straight.app.sweeper.remove_expired())
    assert record_of(straight, url) is None
    assert not any(record.id in path for path in objects(straight))


def test_a_server_that_died_over_an_upload(straight, browser):
    """The file is where it belongs, and nobody has written it down."""
    upload_url, url = initiate(straight)
    put(browser, upload_url)
    record = record_of(straight, url)
    straight.call(straight.files.rename(incoming_path(record.id), record.path))
    assert browser.get(url, follow_redirects=True).content == CONTENT
    assert record_of(straight, url).kind == "upload"


def test_two_servers_take_the_same_upload_in(straight, browser):
    import asyncio

    from glmimage.server.arrivals import find_file

    upload_url, url = initiate(straight)
    put(browser, upload_url)
    file_id = urlsplit(url).path.split("/")[-2]

    async def both():
        return await asyncio.gather(*(find_file(straight.services, file_id) for _ in range(4)))

    found = straight.call(both())
    assert found == [found[0]] * 4
    assert found[0].kind == "upload"


def test_a_bucket_that_is_away(straight, bucket, browser):
    bucket.refusing = 503
    try:
        upload_url, url = initiate(straight)  # signing asks nobody
        assert browser.put(upload_url, content=b"x").status_code == 503
    finally:
        bucket.refusing = None
    assert straight.stranger.get(url).status_code == 404
