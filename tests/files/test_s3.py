"""The bucket: what fails on a network."""

import socket
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from glmimage.files import SigningStore, StorageUnavailable, open_file_store
from glmimage.files import s3 as module

from .conftest import CREDENTIALS

pytestmark = pytest.mark.anyio


@pytest.fixture
def credentials(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


async def test_a_bucket_that_does_not_exist(s3_address, credentials):
    store = open_file_store(f"s3://absent?endpoint={s3_address}&region=us-east-1")
    with pytest.raises(StorageUnavailable, match="s3://absent cannot be used"):
        await store.put("a", b"x")


async def test_a_server_that_is_not_there(credentials, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(module, "MAX_RETRIES", 0)
    store = open_file_store(f"s3://bucket?endpoint=http://127.0.0.1:{port}&region=us-east-1")
    with pytest.raises(StorageUnavailable):
        await store.put("a", b"x")
    with pytest.raises(StorageUnavailable):
        await store.info("a")
    with pytest.raises(StorageUnavailable):
        _ = [info async for info in store.list()]


async def test_an_upload_in_parts_that_breaks_is_aborted(bucket, s3_address):
    import boto3

    async def broken():
        yield bytes(12_000_000)
        raise ConnectionResetError("hung up")

    store = open_file_store(bucket)
    with pytest.raises(ConnectionResetError):
        await store.put("a", broken())
    client = boto3.client("s3", endpoint_url=s3_address, region_name="us-east-1")
    name = bucket.split("/")[2]
    assert not client.list_multipart_uploads(Bucket=name).get("Uploads")


@pytest.mark.parametrize(
    ("options", "origin", "path"),
    [
        ("region=eu-west-1", "https://s3.eu-west-1.amazonaws.com", "/pictures/x/a/b.png"),
        (
            "region=eu-west-1&path_style=false",
            "https://pictures.s3.eu-west-1.amazonaws.com",
            "/x/a/b.png",
        ),
        ("endpoint=http://minio:9000", "http://minio:9000", "/pictures/x/a/b.png"),
        (
            "endpoint=http://minio:9000&public_endpoint=https://files.example.org",
            "https://files.example.org",
            "/pictures/x/a/b.png",
        ),
    ],
)
async def test_addresses_lead_to_where_clients_reach_the_bucket(credentials, options, origin, path):
    store = open_file_store(f"s3://pictures/x?{options}")
    assert isinstance(store, SigningStore)
    parts = urlsplit(await store.sign("GET", "a/b.png", 0.1))
    assert (f"{parts.scheme}://{parts.netloc}", parts.path) == (origin, path)
    assert store.origin == origin
    assert parse_qs(parts.query)["X-Amz-Expires"] == ["1"]


async def test_the_bucket_knows_type_and_name(bucket):
    async def chunks():
        yield b"x" * 3

    store = open_file_store(bucket)
    for content in (b"xxx", chunks()):
        await store.put("a.png", content, content_type="image/png", name="ä b.png")
        info = await store.info("a.png")
        assert (info.size, info.content_type) == (3, "image/png")
        got = httpx.get(await store.sign("GET", "a.png", 60))
        assert got.headers["content-type"] == "image/png"
        assert got.headers["content-disposition"] == "inline; filename*=UTF-8''%C3%A4%20b.png"


async def test_the_prefix_is_kept_out_of_the_paths(bucket, s3_address):
    import boto3

    await open_file_store(bucket).put("a/b.png", b"x")
    client = boto3.client("s3", endpoint_url=s3_address, region_name="us-east-1")
    (found,) = client.list_objects_v2(Bucket=bucket.split("/")[2])["Contents"]
    assert found["Key"] == "some/folder/a/b.png"
