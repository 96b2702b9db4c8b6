"""PostgreSQL: transactions through asyncpg, and LISTEN so that nobody has to ask all the time."""

from __future__ import annotations

import asyncio
import random
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .database import Transaction
from .errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

CHANNEL = "glmimage"
MIGRATION_LOCK = 0x676C6D00
POOL_SIZE = 8
NUM_TRIES = 5
RECONNECT_S = 1.0
# deadlock, serialisation failure: the other transaction has won, and this one may run again
REPEATABLE = frozenset({"40P01", "40001"})


class PostgresDatabase:
    """See `Database`."""

    def __init__(self, engine: AsyncEngine, dsn: str) -> None:
        self._engine, self._dsn = engine, dsn
        self._moment = 0
        self._written = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(), name="store-listener")

    @classmethod
    async def open(cls, url: URL, *, create: bool) -> PostgresDatabase:
        """Connect; `create` makes or upgrades the tables. Raises StoreUnavailable."""
        address = url.set(drivername="postgresql+asyncpg")
        engine = create_async_engine(address, pool_size=POOL_SIZE, max_overflow=8)
        try:
            async with engine.begin() as connection:
                if create:
                    await connection.run_sync(_prepare)
                else:
                    await connection.execute(text("SELECT version_num FROM alembic_version"))
        except (DBAPIError, OSError, asyncpg.PostgresError) as error:
            await engine.dispose()
            raise _unavailable(error) from None
        except BaseException:
            await engine.dispose()
            raise
        dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return cls(engine, dsn)

    async def read(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction; a lost connection is replaced once."""
        return await self._run(transaction, args, kwargs, lost_connection_repeats=True)

    async def write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction and return when it is on disk."""
        return await self._run(transaction, args, kwargs, lost_connection_repeats=False)

    def moment(self) -> int:
        return self._moment

    async def wait(self, moment: int, timeout_s: float) -> bool:
        if self._moment != moment:
            return True
        try:
            await asyncio.wait_for(self._written.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        await self._engine.dispose()

    async def _run(
        self, transaction: Any, args: Any, kwargs: Any, *, lost_connection_repeats: bool
    ) -> Any:
        for attempt in range(NUM_TRIES):
            begun = False
            try:
                async with self._engine.begin() as connection:
                    begun = True
                    return await connection.run_sync(transaction, *args, **kwargs)
            except DBAPIError as error:
                lost = error.connection_invalidated and (lost_connection_repeats or not begun)
                repeat = getattr(error.orig, "sqlstate", "") in REPEATABLE or lost
                if not repeat or attempt == NUM_TRIES - 1:
                    raise _unavailable(error) from None
            except (OSError, asyncpg.PostgresError) as error:
                raise _unavailable(error) from None
            await asyncio.sleep(0.005 * 2**attempt * random.random())
        raise AssertionError  # the last attempt returns or raises

    async def _listen(self) -> None:
        """Hold a connection that is told of every write; make a new one when it breaks."""
        while True:
            try:
                connection = await asyncpg.connect(self._dsn)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(RECONNECT_S)
                continue
            closed = asyncio.Event()
            try:
                connection.add_termination_listener(lambda _: closed.set())  # noqa: B023
                await connection.add_listener(CHANNEL, lambda *_: self._wake())
                self._wake()  # for what was missed while nobody listened
                await closed.wait()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(RECONNECT_S)
            finally:
                if not connection.is_closed():
                    connection.terminate()

    def _wake(self) -> None:
        self._moment += 1
        written, self._written = self._written, asyncio.Event()
        written.set()


def _prepare(connection: Connection) -> None:
    from .migrations import migrate

    connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": MIGRATION_LOCK})
    migrate(connection)


def _unavailable(error: BaseException) -> StoreUnavailable:
    original = error.orig if isinstance(error, DBAPIError) else error
    reason = " ".join(str(original).split()).rpartition(">: ")[2] or type(original).__name__
    hint = "Is PostgreSQL running and the address right?"
    if isinstance(error, DBAPIError) and not isinstance(error, InterfaceError):
        hint = "" if not error.connection_invalidated else hint
    return StoreUnavailable(f"The database cannot be used: {reason}.", hint=hint)
