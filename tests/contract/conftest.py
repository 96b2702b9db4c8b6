"""The job store on each database: the same tests on SQLite and on a really started PostgreSQL."""

import asyncio
import shutil

import asyncpg
import pytest

from glmimage.jobs import JobStore, NewJob
from glmimage.jobs.schema import metadata

ENDPOINT = "fal-ai/glm-image"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """Create the tables once; every test gets a copy."""
    path = tmp_path_factory.mktemp("template") / "store.sqlite3"
    asyncio.run(_create(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_url(postgres_address):
    asyncio.run(_execute(postgres_address, "CREATE DATABASE contract"))
    url = postgres_address.replace("/postgres", "/contract")
    asyncio.run(_create(url))
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """Give the address of an empty store."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "store.sqlite3")
        return f"sqlite:///{tmp_path / 'store.sqlite3'}"
    url = request.getfixturevalue("postgres_url")
    tables = ", ".join(name for name in metadata.tables if name != "counters")
    asyncio.run(_execute(url, f"TRUNCATE {tables} RESTART IDENTITY; UPDATE counters SET value = 0"))
    return url


@pytest.fixture
async def store(database_url):
    async with await JobStore.open(database_url, create=False) as opened:
        yield opened


@pytest.fixture
def new_job():
    """Give the function that makes a small job, changed as asked."""

    def make(**changes):
        values = {"endpoint": ENDPOINT, "input": {"prompt": "a"}, "width": 512, "height": 512}
        return NewJob(**values | changes)

    return make


@pytest.fixture
def claim_one(store):
    """Give the function that claims the job at the front."""

    async def claim(worker_id="worker", stages=("prior", "decode"), lease_s=60.0, revision=None):
        claims = await store.claim(worker_id, stages, 1, lease_s, revision)
        return claims[0] if claims else None

    return claim


async def _create(url):
    await (await JobStore.open(url)).close()


async def _execute(address, statement):
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
