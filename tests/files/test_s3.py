"""The bucket: what fails on a network."""

import socket

import pytest

from glmimage.files import StorageUnavailable, open_file_store
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


async def test_the_prefix_is_kept_out_of_the_paths(bucket, s3_address):
    import boto3

    await open_file_store(bucket).put("a/b.png", b"x")
    client = boto3.client("s3", endpoint_url=s3_address, region_name="us-east-1")
    (found,) = client.list_objects_v2(Bucket=bucket.split("/")[2])["Contents"]
    assert found["Key"] == "some/folder/a/b.png"
