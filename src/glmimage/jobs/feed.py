"""What has changed, for those who keep a picture of the live jobs; and the jobs' logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from .database import newest_change, stamp
from .queue import JOB_COLUMNS, job_from
from .records import Job, Level, LogEntry
from .schema import jobs, logs
from .statement import Statement

_SINCE = Statement(
    select(*JOB_COLUMNS)
    .where(jobs.c.change_number > bindparam("after"), jobs.c.change_number <= bindparam("newest"))
    .order_by(jobs.c.change_number)
    .limit(bindparam("limit"))
)
_AT = Statement(select(*JOB_COLUMNS).where(jobs.c.change_number == bindparam("number")))


def changes_since(connection: Connection, number: int, limit: int = 1000) -> list[Job]:
    """Return jobs that have changed after change `number`, in order, without their payloads.

    Each job once, as it is now; go on with the last one's change_number. A few more than `limit`
    come when one transaction has changed several.
    """
    newest = newest_change(connection)
    query = {"after": number, "newest": newest, "limit": limit}
    found = [job_from(row) for row in _SINCE.all(connection, query)]
    if len(found) == limit:
        last = found[-1].change_number
        rows = _AT.all(connection, {"number": last})
        found = [job for job in found if job.change_number != last] + [job_from(r) for r in rows]
    return found


def live_jobs(connection: Connection) -> tuple[list[Job], int]:
    """Return all jobs that have not ended, without payloads, and the change to go on from."""
    newest = newest_change(connection)
    queue = select(*JOB_COLUMNS).where(jobs.c.queue.is_not(None))
    leased = select(*JOB_COLUMNS).where(jobs.c.lease_until.is_not(None))
    between = select(*JOB_COLUMNS).where(jobs.c.open_stage.is_not(None))
    found = {
        row.number: job_from(row)
        for query in (queue, leased, between)
        for row in connection.execute(query)
    }
    return [found[number] for number in sorted(found)], newest


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
