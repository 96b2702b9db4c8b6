"""PostgreSQL: transactions through asyncpg, and LISTEN so that nobody has to ask all the time.

A process writes through one connection, and commits together what came together, each transaction
a savepoint of its own: a commit waits for the disk, and all jobs of a key for one row, its clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ..errors import GlmImageError
from .database import Transaction
from .errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

CHANNEL = "glmimage"
MIGRATION_LOCK = 0x676C6D00
POOL_SIZE = 8
MAX_BATCH = 64
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
        self._inbox: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._asked = asyncio.Event()
        self._duties = (
            asyncio.create_task(self._listen(), name="store-listener"),
            asyncio.create_task(self._write_loop(), name="store-writer"),
        )

    @classmethod
    async def open(cls, url: URL, *, create: bool) -> PostgresDatabase:
        """Connect; `create` makes or upgrades the tables. Raises StoreUnavailable."""
        address = url.set(drivername="postgresql+asyncpg")
        engine = create_async_engine(address, pool_size=POOL_SIZE, max_overflow=8)
        try:
            async with engine.begin() as connection:
                await (_prepare if create else _check)(connection)
        except (DBAPIError, OSError, asyncpg.PostgresError) as error:
            await engine.dispose()
            raise _unavailable(error) from None
        except BaseException:
            await engine.dispose()
            raise
        dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return cls(engine, dsn)

    async def read(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction; a lost connection is replaced."""
        result: T = await self._run(
            lambda connection: transaction(connection, *args, **kwargs), lost_repeats=True
        )
        return result

    async def write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction and return when it is on disk."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._inbox.append((lambda connection: transaction(connection, *args, **kwargs), future))
        self._asked.set()
        return await future

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
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        await self._engine.dispose()

    async def _write_loop(self) -> None:
        while True:
            await self._asked.wait()
            batch, self._inbox = self._inbox[:MAX_BATCH], self._inbox[MAX_BATCH:]
            if not self._inbox:
                self._asked.clear()
            try:
                answers = await self._run(partial(_run_batch, [work for work, _ in batch]))
            except StoreUnavailable as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue  # nobody waits any more
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _run(self, work: Callable[[Connection], Any], *, lost_repeats: bool = False) -> Any:
        """Run work in a transaction; again when it lost against another one."""
        for attempt in range(NUM_TRIES):
            begun = False
            try:
                async with self._engine.begin() as connection:
                    begun = True
                    return await connection.run_sync(work)
            except DBAPIError as error:
                lost = error.connection_invalidated and (lost_repeats or not begun)
                if not (lost or _repeatable(error)) or attempt == NUM_TRIES - 1:
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


def _run_batch(batch: Sequence[Callable[[Connection], Any]], connection: Connection) -> list[Any]:
    """Run transactions in one; return their results, or the errors of those that failed alone."""
    if len(batch) == 1:
        try:
            return [batch[0](connection)]
        except GlmImageError as error:
            connection.rollback()
            return [error]
    answers: list[Any] = []
    for work in batch:
        savepoint = connection.begin_nested()
        try:
            answers.append(work(connection))
            savepoint.commit()
        except Exception as error:
            if isinstance(error, DBAPIError):
                if error.connection_invalidated or _repeatable(error):
                    raise
                error = _unavailable(error)
            savepoint.rollback()
            answers.append(error)
    return answers


def _repeatable(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", "") in REPEATABLE


async def _check(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT version_num FROM alembic_version"))


async def _prepare(connection: AsyncConnection) -> None:
    from .migrations import ONE_AT_A_TIME, migrate

    lock = text("SELECT pg_advisory_xact_lock(:name)")
    await connection.execute(lock, {"name": MIGRATION_LOCK})
    while not ONE_AT_A_TIME.acquire(blocking=False):  # its holder may be waiting for this loop
        await asyncio.sleep(0.01)
    try:
        await connection.run_sync(migrate)
    finally:
        ONE_AT_A_TIME.release()


def _unavailable(error: BaseException) -> StoreUnavailable:
    original = error.orig if isinstance(error, DBAPIError) else error
    reason = " ".join(str(original).split()).rpartition(">: ")[2] or type(original).__name__
    hint = "Is PostgreSQL running and the address right?"
    if isinstance(error, DBAPIError) and not isinstance(error, InterfaceError):
        hint = "" if not error.connection_invalidated else hint
    return StoreUnavailable(f"The database cannot be used: {reason}.", hint=hint)
