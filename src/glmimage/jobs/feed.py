"""What has changed, for those who keep a picture of the live jobs; and the jobs' logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    bindparam,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)

from .database import Cursor, is_sqlite, newest_change, stamp
from .queue import JOB_COLUMNS, job_from
from .records import Job, Level, LogEntry
from .schema import jobs, logs
from .statement import Statement

PAGE = 5000
"""Jobs that are read with one statement: all that live would take longer than one may."""


class Changes(NamedTuple):
    """Jobs that have changed, and the cursor to go on from."""

    jobs: list[Job]
    cursor: Cursor

    def __bool__(self) -> bool:
        return bool(self.jobs)


_CHANGED = select(*JOB_COLUMNS).order_by(jobs.c.change_number)
_SINCE_NUMBER = Statement(
    _CHANGED.add_columns(jobs.c.change_number).where(jobs.c.change_number > bindparam("cursor"))
)
# What is visible now and was not then, whatever else is in progress, here or in another database
# of the server; the bounds are for the index. What a dump has brought from another server may
# have numbers that are yet to come.
_SINCE_SNAPSHOT = Statement(
    _CHANGED.add_columns(text("pg_current_snapshot()::text")).where(
        text(
            "change_number >= pg_snapshot_xmin(CAST(:cursor AS text)::pg_snapshot)::text::bigint "
            "AND change_number < pg_snapshot_xmax(pg_current_snapshot())::text::bigint "
            "AND NOT pg_visible_in_snapshot("
            "change_number::text::xid8, CAST(:cursor AS text)::pg_snapshot)"
        )
    )
)


def changes_since(connection: Connection, cursor: Cursor) -> Changes:
    """Return jobs that have changed since `cursor`, in order, without their payloads.

    Each job once, as it is now.
    """
    since = _SINCE_NUMBER if is_sqlite(connection) else _SINCE_SNAPSHOT
    rows = since.all(connection, {"cursor": cursor})
    return Changes([job_from(row) for row in rows], rows[-1][-1] if rows else cursor)


def live_jobs(connection: Connection) -> Changes:
    """Return all jobs that have not ended, without payloads, by number."""
    cursor = newest_change(connection)
    pages = chain(
        waiting(connection, jobs.c.queue),
        # between the stages
        waiting(connection, jobs.c.open_stage, jobs.c.queue.is_(None)),
        leased(connection),
    )
    found = {row.number: job_from(row) for page in pages for row in page}
    return Changes([found[number] for number in sorted(found)], cursor)


def waiting(connection: Connection, column: Column[Any], *which: Any) -> Iterator[Sequence[Any]]:
    """Yield the jobs that have a value in `queue` or `open_stage`, in pages, in order."""
    order = (column, jobs.c.place, jobs.c.number)
    query = select(*JOB_COLUMNS, column).where(column.is_not(None), *which)
    query = query.order_by(*order).limit(PAGE)
    last: Sequence[Any] = ("", 0, 0)
    while True:
        after = (literal(value, of.type) for value, of in zip(last, order, strict=True))
        page = connection.execute(query.where(tuple_(*order) > tuple_(*after))).all()
        yield page
        if len(page) < PAGE:
            break
        last = [page[-1][-1], page[-1].place, page[-1].number]


def leased(connection: Connection) -> Iterator[Sequence[Any]]:
    """Yield the jobs that somebody holds, in one page."""
    yield connection.execute(select(*JOB_COLUMNS).where(jobs.c.lease_until.is_not(None))).all()


def log(connection: Connection, entries: Sequence[tuple[str, str, Level]]) -> None:
    """Add entries, each (job_id, message, level), to the jobs' logs."""
    changed = stamp(connection)
    rows: list[dict[str, Any]] = [
        {"job_id": job_id, "at": changed.now, "level": level, "message": message}
        for job_id, message, level in entries
    ]
    last: dict[str, int] = {}
    for row in rows:
        last[row["job_id"]] = _LOG.scalar(connection, row)
    for job_id, number in sorted(last.items()):
        values = {"job_id": job_id, "last": number, "change": changed.change_number}
        _LOGGED.all(connection, values)


_LOG = Statement(insert(logs).returning(logs.c.number))
_LOGGED = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(last_log=bindparam("last"), change_number=bindparam("change"))
)


def read_logs(connection: Connection, job_id: str, after: int = 0) -> list[LogEntry]:
    """Return a job's log entries with a number above `after`, the oldest first."""
    rows = _READ.all(connection, {"job_id": job_id, "after": after})
    return [LogEntry(*row) for row in rows]


_READ = Statement(
    select(logs.c.number, logs.c.job_id, logs.c.at, logs.c.level, logs.c.message)
    .where(logs.c.job_id == bindparam("job_id"), logs.c.number > bindparam("after"))
    .order_by(logs.c.number)
)
