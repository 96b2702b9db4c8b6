"""Sessions with PostgreSQL, with or without a pooler between, and what their failures mean.

What belongs to a session and not to a transaction (LISTEN, advisory locks) never goes through a
pooler: it may give every transaction another session.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
from sqlalchemy import URL, NullPool, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from . import order
from .errors import StoreUnavailable

MIGRATION_LOCK = 0x676C6D00
PLANS = {
    "jit": "off",  # compiling takes longer than any query
    # a plan is kept, so it must not be made for the few jobs that there were then:
    # neither by reading all, nor by putting in order what an index does not give in order
    "enable_seqscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
}
NAME = {"application_name": "glmimage"}
SESSION = (
    NAME
    | PLANS
    | {
        # a machine that has vanished gives up its locks after half a minute
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "4",
        # and one that something between answers for: its statements come at once or never
        "idle_in_transaction_session_timeout": "30s",
    }
)
SILENCE_S = 60.0
"""A statement without an answer for so long has a dead line; longer than the slowest takes."""
POOLER_HINT = (
    "Behind a pooler such as PgBouncer set GLMIMAGE_DATABASE_DIRECT_URL to the server's own "
    "address; docs/operations.md says what else it needs."
)
# what a pooler that does not know prepared statements makes of them
_STRANGE_STATEMENT = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)


async def open_tables(url: URL, *, create: bool) -> None:
    """Make or upgrade the tables, or see that they are there; raise StoreUnavailable."""
    # upgrading may take its time, and waits for another process that does
    opening = create_async_engine(_address(url), poolclass=NullPool)
    try:
        async with opening.begin() as connection:
            await (_prepare if create else _check)(connection)
    except (DBAPIError, OSError, asyncpg.PostgresError) as error:
        raise unavailable(error) from None
    finally:
        await opening.dispose()


def pool_of(url: URL, size: int, isolation: Any, *, pooled: bool) -> AsyncEngine:
    """Return up to `size` connections. pooled: they lead to a pooler."""
    engine = create_async_engine(
        _address(url),
        pool_size=size,
        max_overflow=0,
        connect_args={
            # a pooler refuses all settings that it does not know
            "server_settings": NAME if pooled else SESSION,
            "command_timeout": SILENCE_S,
            "timeout": SILENCE_S,
        },
        isolation_level=isolation,
    )
    event.listen(engine.sync_engine, "handle_error", _give_up_silent_line)
    if pooled:
        event.listen(engine.sync_engine, "connect", _draw_stripe)
    return engine


async def check_sessions(engine: AsyncEngine, *, pooled: bool) -> None:
    """Raise StoreUnavailable where sessions would make other plans than ours."""
    names = ", ".join(f"current_setting('{name}')" for name in PLANS)
    try:
        async with engine.connect() as connection:
            found = (await connection.execute(text(f"SELECT {names}"))).one()
    except (DBAPIError, OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise unavailable(error) from None
    wrong = {
        name: wanted
        for (name, wanted), has in zip(PLANS.items(), found, strict=True)
        if has != wanted
    }
    if wrong:
        settings = ", ".join(f"{name} = {value}" for name, value in wrong.items())
        changes = " ".join(f"ALTER ROLE ... SET {name} = {value};" for name, value in wrong.items())
        hint = f"Execute, with the role in it, and reconnect the pooler: {changes}"
        raise StoreUnavailable(
            f"The database's sessions are not set as they have to be: {settings}.",
            hint=hint if pooled else POOLER_HINT,
        )


def unavailable(error: BaseException) -> StoreUnavailable:
    """Say in a sentence what the database reports."""
    original = error.orig if isinstance(error, DBAPIError) else error
    reason = " ".join(str(original).split()).rpartition(">: ")[2] or type(original).__name__
    if isinstance(original, TimeoutError):
        reason = "it does not answer"
    hint = "Is PostgreSQL running and the address right?"
    cause = getattr(original, "__cause__", None)
    if "unsupported startup parameter" in reason:
        hint = POOLER_HINT
    elif isinstance(cause, _STRANGE_STATEMENT):
        hint = "The pooler must know prepared statements, or pool by session: docs/operations.md."
    elif isinstance(error, DBAPIError) and not isinstance(error, InterfaceError):
        hint = "" if not error.connection_invalidated else hint
    return StoreUnavailable(f"The database cannot be used: {reason}.", hint=hint)


def _address(url: URL) -> URL:
    return url.set(drivername="postgresql+asyncpg")


def _draw_stripe(connection: Any, record: Any) -> None:
    """Let a connection count in rows of its own, for which it can hold no lock of a session."""
    record.info["stripe"] = random.randrange(order.NUM_STRIPES, 1 << 31)


def _give_up_silent_line(context: ExceptionContext) -> None:
    """Have a connection replaced that did not answer in time, and all that are as old."""
    if isinstance(context.original_exception, TimeoutError):
        context.is_disconnect = True


async def _check(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT version_num FROM alembic_version"))


async def _prepare(connection: AsyncConnection) -> None:
    from .migrations import ONE_AT_A_TIME, migrate

    # a role that has SESSION's limit may have to wait for another thread here
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    lock = text("SELECT pg_advisory_xact_lock(:name)")
    await connection.execute(lock, {"name": MIGRATION_LOCK})
    while not ONE_AT_A_TIME.acquire(blocking=False):  # its holder may be waiting for this loop
        await asyncio.sleep(0.01)
    try:
        await connection.run_sync(migrate)
    finally:
        ONE_AT_A_TIME.release()
