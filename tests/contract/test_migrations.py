"""The tables come from the migrations, and are those of schema.py."""

import asyncio
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from glmimage.errors import InvalidSettings
from glmimage.jobs import JobStore, StoreOutdated, StoreUnavailable
from glmimage.jobs.database import is_sqlite
from glmimage.jobs.migrations import HEAD
from glmimage.jobs.schema import LOW_PRIORITY, metadata

pytestmark = pytest.mark.anyio

OPEN = """
import asyncio, sys
from glmimage.jobs import JobStore

async def main(url):
    store = await JobStore.open(url)
    await store.create_key("made")
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def differences(connection):
    return compare_metadata(MigrationContext.configure(connection), metadata)


def version(connection):
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def forget_tables(connection):
    for table in [*metadata.tables, "alembic_version"]:
        connection.execute(text(f"DROP TABLE {table}"))


def come_from_the_future(connection):
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


async def test_the_migrations_lead_to_the_schema(store):
    assert await store._db.read(version) == HEAD
    assert await store._db.read(differences) == []


async def test_what_has_aged_is_not_in_the_index_of_what_may(store):
    def definition(connection):
        asked = (
            "SELECT sql FROM sqlite_master WHERE name = 'jobs_low'"
            if is_sqlite(connection)
            else "SELECT indexdef FROM pg_indexes WHERE indexname = 'jobs_low'"
        )
        return connection.execute(text(asked)).scalar()

    assert str(LOW_PRIORITY) in await store._db.read(definition)


async def test_several_processes_may_make_the_tables_at_once(database_url, store):
    await store._db.write(forget_tables)
    await store.close()
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, database_url]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    async with await JobStore.open(database_url, create=False) as again:
        assert len(await again.list_keys()) == 4


async def test_one_process_may_open_several_stores_at_once(tmp_path):
    """Each in a thread of its own, as tests and embedding programs do."""

    def open_one(index):
        async def make():
            async with await JobStore.open(f"sqlite:///{tmp_path}/{index}.sqlite3") as made:
                await made.create_key("a")

        asyncio.run(make())

    await asyncio.gather(*(asyncio.to_thread(open_one, index) for index in range(4)))


async def test_a_newer_database_is_left_alone(database_url, store):
    await store._db.write(come_from_the_future)
    with pytest.raises(StoreOutdated, match="9999"):
        await JobStore.open(database_url)
    await store._db.write(
        lambda c: c.execute(text(f"UPDATE alembic_version SET version_num='{HEAD}'"))
    )


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("mysql://host/db", InvalidSettings, "mysql"),
        ("nonsense", InvalidSettings, "cannot be read"),
        ("sqlite://", StoreUnavailable, "must be a file"),
        ("sqlite:////nowhere/at/all.sqlite3", StoreUnavailable, "no database"),
        ("postgresql://nobody@127.0.0.1:1/none", StoreUnavailable, "cannot be used"),
    ],
)
async def test_a_wrong_address_is_refused_in_a_sentence(url, kind, words):
    with pytest.raises(kind, match=words):
        await JobStore.open(url, create=False)
