"""PostgreSQL: transactions through asyncpg, and LISTEN so that nobody has to ask all the time.

A process writes through two connections, and commits together what came together: a commit waits
for the disk, and all jobs of a key for one row, its clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from .database import Steps, Topic, Transaction
from .errors import StoreUnavailable
from .moments import EVERYTHING, Moments
from .postgres_batch import (
    DRIVER_ERRORS,
    Call,
    OneFailed,
    connection_lost,
    repeatable,
    run_all,
)
from .postgres_sessions import (
    SESSION,
    SILENCE_S,
    check_sessions,
    open_tables,
    pool_of,
    unavailable,
)
from .postgres_steps import claim, enqueue, finish
from .records import NewJob

P = ParamSpec("P")
T = TypeVar("T")

CHANNEL = "glmimage"
LEADER_LOCK = 0x676C6D03
LEADER_TIMEOUT_S = 5.0
POOL_SIZE = 8
NUM_LANES = 2
MAX_BATCH = 64
NUM_TRIES = 5
RECONNECT_S = 1.0
CHECK_LISTENER_S = 30.0


class PostgresDatabase:
    """See `Database`."""

    steps = Steps(enqueue, claim, finish)

    def __init__(self, readers: AsyncEngine, writer: AsyncEngine, dsn: str) -> None:
        self._readers, self._writer, self._dsn = readers, writer, dsn
        self._moments = Moments()
        self._lanes = tuple(_Lane() for _ in range(NUM_LANES))
        self._leader: asyncpg.Connection[Any] | None = None
        self._leads = False
        self._asking = asyncio.Lock()
        self._duties = (
            asyncio.create_task(self._listen(), name="store-listener"),
            *(asyncio.create_task(self._write_loop(lane)) for lane in self._lanes),
        )

    @classmethod
    async def open(
        cls, url: URL, *, create: bool, direct_url: URL | None = None
    ) -> PostgresDatabase:
        """Connect; `create` makes or upgrades the tables. Raises StoreUnavailable.

        direct_url: the server's own address, where `url` leads through a pooler.
        """
        pooled = direct_url is not None
        await open_tables(direct_url or url, create=create)
        readers, writer = (
            pool_of(url, size, isolation, pooled=pooled)
            # a read is at most one statement that matters, and saves two round trips
            for size, isolation in ((POOL_SIZE, "AUTOCOMMIT"), (NUM_LANES, "READ COMMITTED"))
        )
        try:
            await check_sessions(readers, pooled=pooled)
        except BaseException:
            await readers.dispose()
            raise
        own = (direct_url or url).set(drivername="postgresql")
        return cls(readers, writer, own.render_as_string(hide_password=False))

    async def read(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction; a lost connection is replaced."""
        work = Call(transaction, args, kwargs)
        result: T = await self._run(self._readers, work, lost_repeats=True)
        return result

    async def snapshot(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction all of whose statements see the same moment."""
        work = Call(transaction, args, kwargs)
        readers = self._readers.execution_options(isolation_level="REPEATABLE READ")
        result: T = await self._run(readers, work, lost_repeats=True)
        return result

    async def write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction and return when it is on disk."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = _Task(Call(transaction, args, kwargs), future, _order_of(args))
        # what moves a key's clock apart from all else, so that one is prepared while one commits
        lane = self._lanes[bool(task.order)]
        lane.inbox.append(task)
        lane.asked.set()
        return await future

    def moment(self, topic: Topic) -> int:
        return self._moments[topic]

    async def wait(self, topic: Topic, moment: int, timeout_s: float) -> bool:
        return await self._moments.wait(topic, moment, timeout_s)

    async def lead(self) -> bool:
        """See Database; the lock is that of a session, which is asked whether it lives."""
        async with self._asking:
            try:
                async with asyncio.timeout(LEADER_TIMEOUT_S):
                    if self._leader is None or self._leader.is_closed():
                        self._leads = False
                        self._leader = await asyncpg.connect(self._dsn, server_settings=SESSION)
                    query = "SELECT true" if self._leads else "SELECT pg_try_advisory_lock($1)"
                    values = () if self._leads else (LEADER_LOCK,)
                    self._leads = bool(await self._leader.fetchval(query, *values))
            except DRIVER_ERRORS:
                self._forget_leader()
            return self._leads

    async def resign(self) -> None:
        async with self._asking:
            self._forget_leader()

    def _forget_leader(self) -> None:
        """Drop the session, and with it the lock."""
        leader, self._leader, self._leads = self._leader, None, False
        if leader is not None:
            leader.terminate()

    async def close(self) -> None:
        self._forget_leader()
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        await self._readers.dispose()
        await self._writer.dispose()

    async def _write_loop(self, lane: _Lane) -> None:
        while True:
            await lane.asked.wait()
            batch, lane.inbox = lane.inbox[:MAX_BATCH], lane.inbox[MAX_BATCH:]
            if not lane.inbox:
                lane.asked.clear()
            batch.sort(key=lambda task: task.order)
            for task, answer in zip(batch, await self._answers(batch), strict=True):
                if task.future.done():
                    continue  # nobody waits any more
                if isinstance(answer, BaseException):
                    task.future.set_exception(answer)
                else:
                    task.future.set_result(answer)

    async def _answers(self, batch: list[_Task]) -> list[Any]:
        """Commit transactions together; those of a batch with a failure each alone."""
        calls = [task.call for task in batch]
        if len(calls) > 1:
            try:
                return list(await self._run(self._writer, partial(run_all, calls)))
            except StoreUnavailable as error:
                return [error] * len(batch)
            except OneFailed:
                pass
        answers: list[Any] = []
        for call in calls:
            try:
                answers.append(await self._run(self._writer, call))
            except Exception as error:
                answers.append(error)
        return answers

    async def _run(
        self, engine: AsyncEngine, work: Callable[[Connection], Any], *, lost_repeats: bool = False
    ) -> Any:
        """Run work in a transaction; again when it lost against another one, or its connection.

        Without a connection nothing was written, unless it broke while the commit was on its way.
        """
        for attempt in range(NUM_TRIES):
            committing = False
            try:
                async with engine.begin() as connection:
                    answer = await connection.run_sync(work)
                    committing = True
                return answer
            except TimeoutError as error:
                raise unavailable(error) from None
            except PoolTimeout:
                raise StoreUnavailable("The database's connections are all busy.") from None
            except (DBAPIError, *DRIVER_ERRORS) as error:
                may_repeat = repeatable(error) or (
                    connection_lost(error) and (lost_repeats or not committing)
                )
                if not may_repeat or attempt == NUM_TRIES - 1:
                    raise unavailable(error) from None
            await asyncio.sleep(0.005 * 2**attempt * random.random())
        raise AssertionError  # the last attempt returns or raises

    async def _listen(self) -> None:
        """Hold a connection that is told of every write; make a new one when it breaks."""
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=SILENCE_S)
            except DRIVER_ERRORS:
                await asyncio.sleep(RECONNECT_S)
                continue
            closed = asyncio.Event()
            try:
                connection.add_termination_listener(lambda _: closed.set())  # noqa: B023
                await connection.add_listener(CHANNEL, self._hear)
                self._moments.tell(EVERYTHING)  # for what was missed while nobody listened
                while not closed.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(CHECK_LISTENER_S):
                            await closed.wait()
                        break
                    # a line that is dead without having been closed would never tell anything
                    await connection.execute("SELECT 1", timeout=SILENCE_S)
            except DRIVER_ERRORS:
                await asyncio.sleep(RECONNECT_S)
            finally:
                if not connection.is_closed():
                    connection.terminate()

    def _hear(self, connection: Any, process_id: int, channel: str, topic: Any) -> None:
        self._moments.tell(topic)


class _Task(NamedTuple):
    """A transaction that somebody waits for."""

    call: Call
    future: asyncio.Future[Any]
    order: tuple[str, ...]


class _Lane:
    """Hold what waits for one of the connections that write."""

    def __init__(self) -> None:
        self.inbox: list[_Task] = []
        self.asked = asyncio.Event()


def _order_of(args: tuple[Any, ...]) -> tuple[str, ...]:
    """Let all processes move the keys' clocks in one order, lest they wait for each other."""
    new = args[0] if args else None
    return (new.api_key_id or "", new.priority) if isinstance(new, NewJob) else ()
