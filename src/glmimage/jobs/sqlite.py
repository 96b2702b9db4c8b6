"""SQLite: one thread writes for a whole process, and commits together what came together.

A commit waits for the disk, so the transactions that queue up meanwhile share the next one. Each
is a savepoint of its own and fails alone. Readers have their own threads and never wait (WAL).
What a power cut may undo does not wait for the disk: see `may_be_lost`.
"""

from __future__ import annotations

import asyncio
import fcntl
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from ..errors import GlmImageError
from .database import WRITTEN_TOPICS, Steps, Topic, Transaction
from .errors import StoreUnavailable
from .feed import log
from .leases import finish, heartbeat, report, save_priors
from .moments import Moments
from .notifications import Notifications
from .queue import claim, enqueue
from .roster import worker_seen

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 30.0
MAX_BATCH = 128
NUM_READERS = 2
POLL_S = 0.002
IDLE_POLL_S = 0.02
"""How often a waiting store looks whether anything was written where it is not told; rarer after a
while."""
BUSY_FOR_S = 5.0


class _Task:
    """Run one transaction for a coroutine that waits."""

    def __init__(
        self,
        work: Callable[[Connection], Any],
        loop: asyncio.AbstractEventLoop,
        *,
        synced: bool = True,
    ) -> None:
        self.work, self.loop, self.synced = work, loop, synced
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SqliteDatabase:
    """See `Database`."""

    steps = Steps(enqueue, claim, finish)

    def __init__(self, path: Path) -> None:
        self._engine = _make_engine(path)
        self._inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._readers = ThreadPoolExecutor(NUM_READERS, "store-reader")
        # only asked for data_version, which takes microseconds
        self._watch = sqlite3.connect(path, isolation_level=None)
        self._moments = Moments()
        self._notifications = Notifications(
            path.with_name(f"{path.name}-notify"), self._moments.tell
        )
        self._leader = path.with_name(f"{path.name}-leader").open("ab")
        self._writer.start()

    @classmethod
    async def open(cls, path: str, *, create: bool) -> SqliteDatabase:
        """Open the file; `create` makes or upgrades it. Raises StoreUnavailable."""
        if not path or path == ":memory:":
            raise StoreUnavailable(
                "The job store must be a file: several processes share it.",
                hint="Use sqlite:///FILE.",
            )
        file = Path(path).absolute()
        if not create and not file.is_file():
            raise StoreUnavailable(
                f"There is no database {str(file)!r}.", hint="Start `glmimage serve` first."
            )
        try:
            if create:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch(mode=0o600)
            await asyncio.to_thread(_prepare, file)
            return cls(file)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            raise _unavailable(error) from None

    async def read(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction that only reads."""
        work = _bind(transaction, args, kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, work)

    snapshot = read  # a transaction of SQLite sees one moment anyway

    async def write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction and return when it is on disk, or written and may be lost."""
        work, synced = _bind(transaction, args, kwargs), not may_be_lost(transaction, args)
        task = _Task(work, asyncio.get_running_loop(), synced=synced)
        self._inbox.put(task)
        return await task.future

    def moment(self, topic: Topic) -> int:
        return self._moments[topic] if self._notifications.works else self._data_version()

    async def wait(self, topic: Topic, moment: int, timeout_s: float) -> bool:
        if self._notifications.works:
            return await self._moments.wait(topic, moment, timeout_s)
        started = now = time.monotonic()
        while self._data_version() == moment:
            now = time.monotonic()
            left = started + timeout_s - now
            if left <= 0:
                return False
            pause = POLL_S if now - started < BUSY_FOR_S else IDLE_POLL_S
            await asyncio.sleep(min(pause, left))
        return True

    def _data_version(self) -> int:
        """Return a number that differs after any connection has written."""
        return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    async def lead(self) -> bool:
        try:
            fcntl.flock(self._leader, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
        except OSError:
            return False
        return True

    async def resign(self) -> None:
        fcntl.flock(self._leader, fcntl.LOCK_UN)

    async def close(self) -> None:
        self._leader.close()
        self._inbox.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()
        self._notifications.close()
        self._watch.close()
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        connection = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = _connect(self._engine)
                self._connections.append(connection)
            raw: Any = connection.connection.dbapi_connection
            raw.execute("BEGIN")
            try:
                return work(connection)
            finally:
                raw.execute("ROLLBACK")
        except (DBAPIError, sqlite3.Error) as error:
            raise _unavailable(error) from None

    def _write_loop(self) -> None:
        connection: Connection | None = None
        last = False
        while not last and (task := self._inbox.get()) is not None:
            batch = [task]
            while len(batch) < MAX_BATCH:
                try:
                    further = self._inbox.get_nowait()
                except Empty:
                    break
                if further is None:
                    last = True
                    break
                batch.append(further)
            try:
                connection = connection or _connect(self._engine)
                _run_batch(connection, batch)
                self._notifications.send(connection.info[WRITTEN_TOPICS])
            except Exception as error:  # none to be had, or one that cannot be used any more
                for task in batch:
                    task.error = task.error or _unavailable(error)
                _drop(connection)
                connection = None
            _settle(batch)
        _drop(connection)


def _bind(transaction: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return lambda connection: transaction(connection, *args, **kwargs)


def may_be_lost(transaction: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Say whether a power cut, which ends every process here, may undo a transaction.

    It takes whatever was written later along, so nothing is ever half there. A job whose claim is
    lost waits again, and is painted again with the same seed; a caller who waits on a connection
    for an answer has lost that as well.
    """
    if transaction is enqueue:
        return bool(args[0].surface != "queue")
    return transaction in _MAY_BE_LOST


_MAY_BE_LOST = frozenset({claim, heartbeat, log, report, save_priors, worker_seen})


def _run_batch(connection: Connection, batch: list[_Task]) -> None:
    """Run transactions in one commit; a failed one leaves no trace in it."""
    raw: Any = connection.connection.dbapi_connection
    connection.info[WRITTEN_TOPICS] = set()
    synced = any(task.synced for task in batch)
    try:
        raw.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        begin_immediate(connection)
        for task in batch:
            raw.execute("SAVEPOINT task")
            try:
                task.result = task.work(connection)
            except Exception as error:
                foreseen = isinstance(error, DBAPIError | sqlite3.Error)
                task.error = _unavailable(error) if foreseen else error
                raw.execute("ROLLBACK TO task")
            raw.execute("RELEASE task")
        raw.execute("COMMIT")
    except Exception as error:
        for task in batch:
            task.error = task.error or _unavailable(error)
        if raw.in_transaction:  # a full disk ends SQLite's transaction by itself
            raw.execute("ROLLBACK")
        connection.info[WRITTEN_TOPICS] = set()


def begin_immediate(connection: Connection) -> None:
    """Take the write lock; ask again sooner than SQLite's own busy handler, which sleeps 100 ms."""
    raw: Any = connection.connection.dbapi_connection
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    pause = 0.0005
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(pause * random.random())
        pause = min(pause * 1.5, 0.005)


def _settle(batch: list[_Task]) -> None:
    """Hand the results over, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Task]] = {}
    for task in batch:
        by_loop.setdefault(task.loop, []).append(task)
    for loop, tasks in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, tasks)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _settle_all(tasks: list[_Task]) -> None:
    for task in tasks:
        task.settle()


def _make_engine(path: Path) -> Engine:
    return create_engine(
        f"sqlite+pysqlite:///{path}",
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are ours
        connect_args={"check_same_thread": False, "timeout": 0},
    )


def _connect(engine: Engine) -> Connection:
    connection = engine.connect()
    try:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # a commit survives a power cut; see `may_be_lost`
            "temp_store = MEMORY",
            "cache_size = -32000",
            "mmap_size = 268435456",
        ):
            _execute_when_free(connection, f"PRAGMA {pragma}")
    except BaseException:
        _drop(connection)
        raise
    return connection


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(Exception):  # a broken one may not even close
            connection.close()


def _execute_when_free(connection: Connection, statement: str) -> None:
    """Execute what the busy handler does not cover, such as the first change to WAL."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.exec_driver_sql(statement)
            return
        except DBAPIError as error:
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _prepare(path: Path) -> None:
    from .migrations import ONE_AT_A_TIME, migrate

    engine = _make_engine(path)
    connection = _connect(engine)
    try:
        begin_immediate(connection)
        try:
            with ONE_AT_A_TIME:
                migrate(connection)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
    finally:
        connection.close()
        engine.dispose()


def _unavailable(error: BaseException) -> GlmImageError:
    """Say in a sentence what the database reports."""
    if isinstance(error, GlmImageError):
        return error
    reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    hint = ""
    if "full" in reason:
        hint = "Make space on the disk of the data folder."
    elif "locked" in reason:
        hint = "Another program holds the database; close it."
    return StoreUnavailable(f"The database cannot be used: {reason}.", hint=hint)
