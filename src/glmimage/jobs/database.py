"""Run transactions, which are plain functions of a connection, on SQLite or PostgreSQL.

A transaction may be run again after a failure, so it must touch nothing but its connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..errors import InvalidSettings

P = ParamSpec("P")
T = TypeVar("T")
Transaction = Callable[Concatenate[Connection, P], T]
Topic = Literal["change", "work", "cancel"]
"""What one may wait for: anything at all, something to claim, a job to let go of."""
Cursor = int | str
"""Where a reader of the change feed is: SQLite's last change, or a snapshot of PostgreSQL's."""
WRITTEN_TOPICS = "written topics"
"""Of the `info` of a connection to SQLite: what is to be told of once it has committed."""


class Steps(NamedTuple):
    """The three transactions of every job, as suits the database."""

    enqueue: Callable[..., Any]
    claim: Callable[..., Any]
    finish: Callable[..., Any]


class Database(Protocol):
    """Execute transactions from the event loop it was opened in."""

    steps: Steps

    async def read(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction that only reads; its statements may see different moments."""
        ...

    async def snapshot(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `read`, for statements that must all see the same moment."""
        ...

    async def write(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    def moment(self, topic: Topic) -> int:
        """Return a number that differs after another connection has written on a topic."""
        ...

    async def wait(self, topic: Topic, moment: int, timeout_s: float) -> bool:
        """Wait until something is written after `moment`; False when nothing was."""
        ...

    async def lead(self) -> bool:
        """Hold the lock that one process has at a time, or try to get it."""
        ...

    async def resign(self) -> None:
        """Give that lock up."""
        ...

    async def close(self) -> None: ...


async def open_database(url: str, *, create: bool, direct_url: str | None = None) -> Database:
    """Open `sqlite:///FILE` or `postgresql://...`; raise InvalidSettings or StoreUnavailable.

    direct_url: of PostgreSQL itself, where `url` leads through a pooler.
    """
    parsed, direct = _parse(url), _parse(direct_url) if direct_url else None
    kind = parsed.drivername.partition("+")[0]
    if direct is not None and not (_is_postgres(parsed) and _is_postgres(direct)):
        raise InvalidSettings(
            "A direct address is for PostgreSQL behind a pooler: both must be postgresql://...",
            hint="Leave GLMIMAGE_DATABASE_DIRECT_URL out.",
        )
    if kind == "sqlite":
        from .sqlite import SqliteDatabase

        return await SqliteDatabase.open(parsed.database or "", create=create)
    if _is_postgres(parsed):
        from .postgres import PostgresDatabase

        return await PostgresDatabase.open(parsed, create=create, direct_url=direct)
    raise InvalidSettings(
        f"{kind} is not a database this store can use.", hint="Use sqlite or postgresql."
    )


def _is_postgres(url: URL) -> bool:
    return url.drivername.partition("+")[0] in ("postgresql", "postgres")


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise InvalidSettings(
            "The database address cannot be read.",
            hint="Use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
        ) from None


class Stamp(NamedTuple):
    """Date a change: its number in the feed, and the store's time."""

    change_number: int
    now: float


_COUNT_CHANGE = "UPDATE counters SET value = value + 1 WHERE name = 'change' RETURNING value"
# A transaction's own number is handed out before it commits, so numbers become visible in any
# order, and a reader of the feed remembers which were (see `newest_change`).
_STAMP = text(
    "SELECT pg_current_xact_id()::text::bigint, extract(epoch FROM clock_timestamp())::float8, "
    "pg_notify('glmimage', :topic)"
)
_SNAPSHOT = text("SELECT pg_current_snapshot()::text")
_NEWEST = text("SELECT value FROM counters WHERE name = 'change'")
_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def stamp(connection: Connection, topic: Topic = "change") -> Stamp:
    """Number and date a change to a job, and wake those who wait for one of this kind."""
    if is_sqlite(connection):
        raw: Any = connection.connection.dbapi_connection
        connection.info.setdefault(WRITTEN_TOPICS, set()).add(topic)
        return Stamp(raw.execute(_COUNT_CHANGE).fetchone()[0], time.time())
    number, now, _ = connection.execute(_STAMP, {"topic": topic}).one()
    return Stamp(number, now)


def newest_change(connection: Connection) -> Cursor:
    """Return the cursor of a reader to whom all is known that is visible now."""
    query = _NEWEST if is_sqlite(connection) else _SNAPSHOT
    found: Cursor = connection.execute(query).scalar_one()
    return found


def store_time(connection: Connection) -> float:
    """Return the time by the clock all workers share."""
    return time.time() if is_sqlite(connection) else float(connection.execute(_NOW).scalar_one())


def insert_for(dialect: str) -> Any:
    """Return the dialect's `insert`, the one that knows ON CONFLICT."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert

        return insert
    from sqlalchemy.dialects.postgresql import insert as postgres_insert

    return postgres_insert
