"""A pooler in front of PostgreSQL: a really started PgBouncer, by session and by transaction."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from glmimage.errors import InvalidSettings
from glmimage.jobs import JobStore, StoreUnavailable
from glmimage.jobs.postgres_sessions import PLANS, SESSION

from .conftest import _execute

pytestmark = pytest.mark.anyio
ROLE = "pooled"


@pytest.fixture(scope="module")
def version():
    if shutil.which("pgbouncer") is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer).")
    told = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True, check=True)
    return tuple(map(int, re.search(r"(\d+)\.(\d+)", told.stdout).groups()))


@pytest.fixture(scope="module")
def addresses(postgres_address):
    """Make a database and a role of its own; return the server's address with each of two roles."""
    for statement in (f"CREATE ROLE {ROLE} LOGIN SUPERUSER", "CREATE DATABASE pooled"):
        asyncio.run(_execute(postgres_address, statement))
    address = make_url(postgres_address).set(database="pooled")
    plain, set_up = (address.set(username=name) for name in (address.username, ROLE))
    for name, value in PLANS.items():
        asyncio.run(_execute(postgres_address, f"ALTER ROLE {ROLE} SET {name} = {value}"))
    return plain.render_as_string(), set_up.render_as_string()


@pytest.fixture
def pooler(version, addresses):
    """Return the function that starts a PgBouncer and gives the address it is reached at."""
    server = make_url(addresses[0])
    running, folders = [], []

    def start(mode, **settings):
        if mode == "transaction" and version < (1, 21):
            pytest.skip(f"PgBouncer {version} has no prepared statements by transaction.")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = Path(tempfile.mkdtemp(prefix="glmimage-pooler-"))
        folders.append(folder)
        settings = (
            {
                "listen_addr": "127.0.0.1",
                "listen_port": port,
                "unix_socket_dir": "",
                "auth_type": "trust",
                "auth_file": folder / "users",
                "pool_mode": mode,
                "logfile": folder / "log",
                "default_pool_size": 60,
            }
            | ({"max_prepared_statements": 100} if mode == "transaction" else {})
            | settings
        )
        lines = [f"{name} = {value}" for name, value in settings.items()]
        where = f"pooled = host=127.0.0.1 port={server.port} dbname=pooled"
        (folder / "ini").write_text("\n".join(["[databases]", where, "[pgbouncer]", *lines]) + "\n")
        names = [server.username, ROLE]
        (folder / "users").write_text("".join(f'"{name}" ""\n' for name in names))
        user = {}
        if os.geteuid() == 0:  # as which it does not run
            user = {"user": "postgres", "group": "postgres"}
            shutil.chown(folder, "postgres")
        running.append(
            subprocess.Popen(["pgbouncer", "-q", folder / "ini"], stderr=subprocess.DEVNULL, **user)
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        return lambda address: make_url(address).set(port=port).render_as_string()

    def stop():
        for process in running:
            process.kill()  # from 1.23 on SIGTERM waits for the clients to go
            process.wait()

    start.stop = stop
    yield start
    stop()
    for folder in folders:
        shutil.rmtree(folder)


async def opened(url, **options):
    async with await JobStore.open(url, **options) as store:
        return await store.now()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_is_as_good_as_the_server(pooler, addresses, new_job, mode):
    at = pooler(mode)
    through, direct = at(addresses[1]), addresses[1]
    async with (
        await JobStore.open(through, direct_url=direct) as one,
        await JobStore.open(through, direct_url=direct) as other,
    ):
        waiting = asyncio.create_task(other.wait_for_work(["prior"], 20.0))
        cancelled = asyncio.create_task(other.wait_for_cancel("w", 20.0))
        await asyncio.sleep(0.3)
        told = [await one.enqueue(new_job()) for _ in range(5)]
        assert await asyncio.wait_for(waiting, 5) is True
        assert [position for _, position in told] == [0, 1, 2, 3, 4]
        # who leads holds a lock of a session, which no other one shares
        assert [await one.lead(), await other.lead(), await one.lead()] == [True, False, True]
        taken = await asyncio.gather(*(s.claim("w", ["prior"], 1, 60.0) for s in (one, other) * 3))
        claims = [claim for found in taken for claim in found]
        assert len({claim.job.id for claim in claims}) == len(claims) == 5
        assert await one.cancel(claims[0].job.id) == "requested"
        assert await asyncio.wait_for(cancelled, 5) == {claims[0].job.id}
        await other.confirm_cancelled(claims[0])
        await asyncio.gather(*(one.finish(claim, {"images": []}) for claim in claims[1:]))
        assert await other.queue_length(claims[0].job.endpoint) == 0
        for claim in claims:
            assert (await other.get(claim.job.id)).ended
    async with await JobStore.open(through, direct_url=direct) as again:
        assert await again.lead() is True


async def test_locks_and_news_never_go_through_the_pooler(pooler, addresses):
    """They are there still when the pooler is gone."""
    through = pooler("session")(addresses[1])
    async with await JobStore.open(through, direct_url=addresses[1]) as store:
        assert await store.lead()
        await asyncio.sleep(0.3)
        pooler.stop()
        with pytest.raises(StoreUnavailable):
            await store.now()
        moment = store._db.moment("work")
        await _execute(addresses[0], "NOTIFY glmimage, 'work'")
        assert await store._db.wait("work", moment, 5.0)
        assert await store.lead()


async def test_a_pooler_that_nobody_told_us_of_is_refused(pooler, addresses):
    plain, set_up = addresses
    with pytest.raises(StoreUnavailable, match="unsupported startup parameter") as caught:
        await opened(pooler("session")(set_up))
    assert "GLMIMAGE_DATABASE_DIRECT_URL" in caught.value.hint
    ignoring = pooler("session", ignore_startup_parameters=",".join(SESSION))
    with pytest.raises(StoreUnavailable, match="plan_cache_mode = force_generic_plan") as caught:
        await opened(ignoring(plain))
    assert "GLMIMAGE_DATABASE_DIRECT_URL" in caught.value.hint


async def test_sessions_that_would_plan_otherwise_are_refused(pooler, addresses):
    plain, _ = addresses
    with pytest.raises(StoreUnavailable, match="enable_seqscan = off") as caught:
        await opened(pooler("session")(plain), direct_url=plain)
    assert "ALTER ROLE ... SET enable_seqscan = off;" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("sqlite:///a.sqlite3", "postgresql://host/db"),
        ("postgresql://host/db", "sqlite:///a.sqlite3"),
        ("postgresql://host/db", "mysql://host/db"),
    ],
)
async def test_a_direct_address_is_one_of_postgresql(url, direct):
    with pytest.raises(InvalidSettings, match="behind a pooler"):
        await JobStore.open(url, direct_url=direct)
