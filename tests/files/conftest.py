"""Both kinds of store, behind the one protocol that the tests know."""

import uuid

import pytest

from glmimage.files import open_file_store

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def s3_address():
    """Start an S3 server in this process and return its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_address, monkeypatch):
    """Make a bucket and return the URL of a folder in it."""
    import boto3

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client("s3", endpoint_url=s3_address, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    return f"s3://{name}/some/folder?endpoint={s3_address}&region=us-east-1&path_style=true"


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    """Open an empty store of either kind."""
    if request.param == "folder":
        return open_file_store(tmp_path / "new" / "files")
    return open_file_store(request.getfixturevalue("bucket"))
