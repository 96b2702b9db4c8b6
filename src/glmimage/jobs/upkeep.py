"""What has to be done from time to time: the queue kept in order, and what is old forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, text, update

from . import order, outbox
from .clock import Trust
from .database import is_sqlite, stamp, store_time
from .endings import BATCH, expire_starts, recover_leases
from .feed import log
from .schema import files, jobs, logs, payloads, priors, webhooks, workers
from .statement import Statement

HOUSEKEEPING_LOCK = 0x676C6D01
MISSED_AFTER_S = 300.0
"""A worker that has been silent for so long will not come back with its model revision."""
ENDING_S = 60.0
"""Longer than it takes a job that ends to be seen."""
RESTARTED = "No worker is left of the model revision that wrote the prior; it is written again."


def delete_payload(connection: Connection, job_id: str) -> bool:
    """Forget what was asked and answered, and what was written between; the job's row stays."""
    known = connection.execute(select(jobs.c.number).where(jobs.c.id == job_id)).first()
    for table in (payloads, priors, logs):
        connection.execute(delete(table).where(table.c.job_id == job_id))
    if known is not None:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(cache_key=None, change_number=stamp(connection).change_number)
        )
    return known is not None


class ResultsDue(NamedTuple):
    """Name jobs whose payloads are to go. until: once they are gone, nothing is left before it."""

    ids: list[str]
    until: float


def results_due(
    connection: Connection, since: float, before: float, *, only_unstored: bool = False
) -> ResultsDue:
    """Find the first jobs that ended in [since, before) and still have a payload.

    only_unstored: of those whose payload is not to be stored.
    """
    until = min(before, store_time(connection) - ENDING_S)
    # not a join, so that no planner begins with the payloads
    payload = select(payloads.c.job_id).where(payloads.c.job_id == jobs.c.id).scalar_subquery()
    query = (
        select(jobs.c.id, jobs.c.finished_at)
        .where(payload.is_not(None), jobs.c.finished_at >= since, jobs.c.finished_at < before)
        .order_by(jobs.c.finished_at)
        .limit(BATCH)
    )
    if only_unstored:
        # literal, so that the planner sees that the partial index serves
        query = query.where(text("NOT store_io"))
    rows = connection.execute(query).all()
    if len(rows) == BATCH:
        until = min(until, rows[-1].finished_at)
    return ResultsDue([row.id for row in rows], until)


def purge_results(connection: Connection, ids: Sequence[str]) -> int:
    """Delete the payloads of those of the jobs that have ended, and not been retried since."""
    return sum(delete_payload(connection, job_id) for job_id in _ended(connection, ids))


def purge_history(connection: Connection, before: float) -> int:
    """Delete the rows of jobs that ended before a time, with all that belongs to them."""
    return _delete_jobs(connection, ended_before(connection, before))


def ended_before(connection: Connection, before: float) -> list[str]:
    """Return the ids of jobs that ended before a time."""
    due = select(jobs.c.id).where(jobs.c.finished_at < before).limit(BATCH)
    return list(connection.execute(due).scalars())


def purge_jobs(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Delete jobs that have ended, and let their pictures expire; return which these were."""
    found = _ended(connection, ids)
    now = store_time(connection)
    connection.execute(update(files).where(files.c.job_id.in_(found)).values(expires=now))
    _delete_jobs(connection, found)
    return found


def _ended(connection: Connection, ids: Sequence[str]) -> list[str]:
    ended = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.finished_at.is_not(None))
    return list(connection.execute(ended.with_for_update()).scalars())


def _delete_jobs(connection: Connection, ids: Sequence[str]) -> int:
    for table in (payloads, priors, logs, webhooks):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return len(ids)


def keep_order(
    connection: Connection,
    ageing_s: float,
    longest_lease_s: float,
    longest_delay_s: float,
    trust: Trust,
) -> None:
    """Free lost leases, expire deadlines, age the queue; in one place at a time.

    longest_delay_s: between two attempts at a webhook.
    """
    if not is_sqlite(connection):
        query = text("SELECT pg_try_advisory_xact_lock(:name)")
        if not connection.execute(query, {"name": HOUSEKEEPING_LOCK}).scalar_one():
            return  # another process is at it
    shorten_leases(connection, longest_lease_s)
    outbox.advance_webhooks(connection, longest_delay_s)
    if trust.leases:
        recover_leases(connection)
    if trust.clock:
        expire_starts(connection)
    restart_orphans(connection)
    order.age_queue(connection, ageing_s)
    order.drop_empty_buckets(connection)


def shorten_leases(connection: Connection, longest_s: float) -> int:
    """Let leases that end later than any can end in `longest_s`: the clock was put back.

    A worker that lives sets its own anew; one that is dead would hold its jobs until then.
    """
    latest = store_time(connection) + longest_s
    shortened = update(jobs).where(jobs.c.lease_until > latest).values(lease_until=latest)
    return connection.execute(shortened).rowcount


def restart_orphans(connection: Connection) -> int:
    """Have jobs begun anew whose prior is of a model revision that nobody runs any more.

    Only a worker of the revision that wrote a prior may paint from it; after a roll-out there is
    none. Nothing is done while no other worker could begin them either.
    """
    waiting = _revisions_that_wait(connection)
    if not waiting:
        return 0
    since = store_time(connection) - MISSED_AFTER_S
    alive = connection.execute(
        select(workers.c.model_revision, workers.c.stages).where(workers.c.seen_at >= since)
    ).all()
    running = {row.model_revision for row in alive}
    if not any(row.model_revision and "prior" in row.stages for row in alive):
        return 0
    return sum(_restart(connection, gone) for gone in waiting if gone not in running)


def _revisions_that_wait(connection: Connection) -> list[str]:
    """Return the revisions of the priors that wait to be painted, each found by one look-up."""
    found: list[str] = []
    while True:
        last = found[-1] if found else ""
        further = _NEXT_REVISION.scalar(connection, {"last": last})
        if further is None:
            return found
        found.append(further)


_NEXT_REVISION = Statement(
    select(jobs.c.model_revision)
    .where(jobs.c.open_stage == "decode", jobs.c.model_revision > bindparam("last"))
    # as one index has them, so that no planner takes another
    .order_by(jobs.c.model_revision, jobs.c.place, jobs.c.number)
    .limit(1)
)


def _restart(connection: Connection, revision: str) -> int:
    rows = connection.execute(
        select(jobs.c.number, jobs.c.id)
        .where(jobs.c.open_stage == "decode", jobs.c.model_revision == revision)
        .order_by(jobs.c.place, jobs.c.number)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    changed = stamp(connection, "work")
    connection.execute(delete(priors).where(priors.c.job_id.in_(ids)))
    connection.execute(
        update(jobs)
        .where(jobs.c.number.in_([row.number for row in rows]))
        .values(
            stage="prior",
            open_stage="prior",
            model_revision=None,
            change_number=changed.change_number,
        )
    )
    log(connection, [(id, RESTARTED, "WARN") for id in ids])
    return len(rows)
