"""Jobs as an operator looks for them: by state, the next or the newest first."""

from __future__ import annotations

from typing import Any, get_args

from sqlalchemy import Connection, select, text

from .queue import JOB_COLUMNS, job_from
from .records import Job, State
from .schema import jobs

LISTED: tuple[str, ...] = (*get_args(State), "dead")


def list_jobs(
    connection: Connection,
    state: str | None = None,
    *,
    endpoint: str | None = None,
    api_key_id: str | None = None,
    limit: int = 50,
) -> list[Job]:
    """Return jobs without their payloads: what waits in order, everything else the newest first.

    state: one of LISTED.
    dead: failed because no attempt was left, until it is retried or deleted.
    """
    query: Any = select(*JOB_COLUMNS)
    if state in ("preparing", "queued"):
        # all conditions are such that one of the partial indexes serves
        query = query.where(jobs.c.queue.is_not(None), jobs.c.state == state)
        query = query.order_by(jobs.c.queue, jobs.c.place, jobs.c.number)
    elif state == "running":
        query = query.where(jobs.c.lease_until.is_not(None) | jobs.c.open_stage.is_not(None))
        query = query.where(jobs.c.state == state).order_by(jobs.c.number.desc())
    elif state == "dead":
        query = query.where(text("dead")).order_by(jobs.c.number.desc())
    elif state is not None:
        query = query.where(jobs.c.finished_at.is_not(None), jobs.c.state == state)
        query = query.order_by(jobs.c.finished_at.desc())
    else:
        query = query.order_by(jobs.c.number.desc())
    if endpoint is not None:
        query = query.where(jobs.c.endpoint == endpoint)
    if api_key_id is not None:
        query = query.where(jobs.c.api_key_id == api_key_id)
    return [job_from(row) for row in connection.execute(query.limit(limit))]
