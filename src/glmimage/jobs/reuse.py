"""What an equal request has made before."""

from __future__ import annotations

from sqlalchemy import Connection, select

from .queue import JOB_COLUMNS, job_from, read_priors
from .records import Job, Prior
from .schema import jobs, payloads, priors


def find_cached_result(connection: Connection, cache_key: str) -> Job | None:
    """Return the newest finished job of a cache key that still has its result.

    Whether its files live is for the caller to see: their expiry is in the file index.
    """
    row = connection.execute(
        select(*JOB_COLUMNS, payloads.c.input, payloads.c.result)
        .join(payloads, payloads.c.job_id == jobs.c.id)
        .where(
            jobs.c.cache_key == cache_key,
            jobs.c.state == "done",
            jobs.c.served_from.is_(None),
            payloads.c.result.is_not(None),
        )
        .order_by(jobs.c.finished_at.desc())
        .limit(1)
    ).first()
    return None if row is None else job_from(row, row.input, row.result)


def find_cached_prior(
    connection: Connection, prior_key: str, model_revision: str | None = None
) -> tuple[Prior, ...]:
    """Return the newest priors stored under a key, of the model revision; () without any."""
    query = select(priors.c.job_id).where(priors.c.prior_key == prior_key)
    if model_revision is not None:
        query = query.where(priors.c.model_revision == model_revision)
    job_id = connection.execute(query.order_by(priors.c.created_at.desc()).limit(1)).scalar()
    if job_id is None:
        return ()
    # they may have been deleted since
    return tuple(read_priors(connection, [job_id]).get(job_id, ()))
