"""What came together is written together: transactions that share one commit on PostgreSQL.

Those of one statement (see `Step`) are sent without waiting for the answers in between; a round
trip costs more than the work it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import BigInteger, Connection, bindparam
from sqlalchemy.exc import DBAPIError

from .errors import LeaseLost, QueueFull, WrongState
from .statement import Statement

# deadlock, serialisation failure: the other transaction has won, and this one may run again
REPEATABLE = frozenset({"40P01", "40001"})
# of these the last comes of a statement that is sent while the server closes the connection
DRIVER_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
CALLER = bindparam("caller", type_=BigInteger())
"""The last column of a step's statement: whose row it is, of those that are asked together."""


@dataclass(frozen=True)
class Step:
    """A transaction of one statement.

    ask: return the statement and its values, given a connection and the caller's arguments.
    answer: return what the caller gets, given a connection, the arguments, the values and the rows.
    """

    ask: Callable[..., tuple[Statement, dict[str, Any]]]
    answer: Callable[..., Any]

    def __call__(self, connection: Connection, *args: Any) -> Any:
        statement, values = self.ask(connection, *args)
        rows = statement.all(connection, values | {"caller": 0})
        return self.answer(connection, args, values, rows)


@dataclass(frozen=True)
class Call:
    """A transaction and its arguments."""

    transaction: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, connection: Connection) -> Any:
        return self.transaction(connection, *self.args, **self.kwargs)


class OneFailed(Exception):
    """Say that a transaction of several has failed, so that nothing is kept of any."""


def run_all(calls: Sequence[Call], connection: Connection) -> list[Any]:
    """Return the calls' answers, or what they raised before they wrote anything.

    Raises OneFailed, or what may go away when all are run again.
    """
    answers: dict[int, Any] = {}
    together: dict[Statement, list[tuple[int, Step, dict[str, Any]]]] = {}
    with _one_failed():
        for number, call in enumerate(calls):
            if isinstance(step := call.transaction, Step):
                statement, values = step.ask(connection, *call.args)
                together.setdefault(statement, []).append((number, step, values))
            else:
                answers[number] = _answer(call, connection)
        for statement, asked in together.items():
            found = run_each(statement, connection, [values for _, _, values in asked])
            for (number, step, values), rows in zip(asked, found, strict=True):
                answers[number] = _answer(step.answer, connection, calls[number].args, values, rows)
    return [answers[number] for number in range(len(calls))]


def run_each(
    statement: Statement, connection: Connection, many: Sequence[Mapping[str, Any]]
) -> list[list[Any]]:
    """Return the rows that a step's statement has for each of `many` values."""
    first, *others = ({**values, "caller": number} for number, values in enumerate(many))
    # the first one goes through SQLAlchemy, which begins the transaction with it
    found = [list(statement.all(connection, first))]
    if not others:
        return found
    compiled = statement.compiled(connection, first)
    given = [compiled.given(values) for values in others]
    raw: Any = connection.connection.dbapi_connection
    try:
        records = raw.run_async(lambda driver: driver.fetchmany(compiled.text, given))
    except Exception as error:
        if connection_lost(error):
            connection.invalidate(error)
        raise
    found += [[] for _ in given]
    for row in compiled.converted(records):
        found[row[-1]].append(row)
    return found


def repeatable(error: BaseException) -> bool:
    """Say whether a transaction has only lost against another one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", "") in REPEATABLE


def connection_lost(error: BaseException) -> bool:
    """Say whether a connection broke, rather than what was asked over it."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a value that cannot be sent
    lost = (OSError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError)
    return isinstance(error, lost)


def _answer(work: Callable[..., Any], *args: Any) -> Any:
    try:
        return work(*args)
    except (LeaseLost, QueueFull, WrongState) as error:  # said before anything is written
        return error


@contextmanager
def _one_failed() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if connection_lost(error) or repeatable(error):
            raise
        raise OneFailed from None
