"""What the owner of a claim may do; every call proves its fence, and fails with LeaseLost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from .database import Stamp, stamp, store_time
from .endings import describe, end, give_up, put_back
from .errors import LeaseLost, WrongState
from .feed import log
from .queue import JOB_COLUMNS, job_from, pack_tokens
from .records import Beat, Claim, Document, FileRecord, Job, Level, Prior, State, Usage
from .schema import files, jobs, payloads, priors, usage
from .statement import Statement

_OWNED = Statement(select(*JOB_COLUMNS).where(jobs.c.id == bindparam("id")).with_for_update())


def heartbeat(connection: Connection, claims: Sequence[Claim], lease_s: float) -> Beat:
    """Extend leases; say which are lost and which should be cancelled."""
    if not claims:
        return Beat()
    fences = {claim.job.id: claim.fence for claim in claims}
    rows = connection.execute(
        update(jobs)
        .where(
            jobs.c.id.in_(list(fences)),
            jobs.c.worker_id == claims[0].worker_id,
            jobs.c.lease_until.is_not(None),
        )
        .values(lease_until=store_time(connection) + lease_s)
        .returning(jobs.c.id, jobs.c.fence, jobs.c.cancel_requested)
    ).all()
    kept = {row.id: row for row in rows if row.fence == fences[row.id]}
    return Beat(
        frozenset(fences.keys() - kept.keys()),
        frozenset(id for id, row in kept.items() if row.cancel_requested),
    )


def report(
    connection: Connection,
    entries: Sequence[tuple[str, str, Level]],
    progress: Sequence[tuple[Claim, float]] = (),
) -> None:
    """Write log entries, each (job_id, message, level), and how far jobs are, 0 to 1.

    Progress of a lost lease is dropped in silence.
    """
    if entries:
        log(connection, entries)
    if progress:
        changed = stamp(connection)
        for claim, fraction in sorted(progress, key=lambda pair: pair[0].job.id):
            values = {"job_id": claim.job.id, "claimed": claim.fence, "done": fraction}
            _PROGRESS.all(connection, values | {"change": changed.change_number})


_PROGRESS = Statement(
    update(jobs)
    .where(
        jobs.c.id == bindparam("job_id"),
        jobs.c.fence == bindparam("claimed"),
        jobs.c.state == "running",
    )
    .values(progress=bindparam("done"), change_number=bindparam("change"))
)


def cancelled_of(connection: Connection, worker_id: str) -> frozenset[str]:
    """Return the ids of a worker's jobs that it should let go of."""
    return frozenset(row[0] for row in _CANCELLED.all(connection, {"worker": worker_id}))


_CANCELLED = Statement(
    select(jobs.c.id).where(
        jobs.c.lease_until.is_not(None),
        jobs.c.worker_id == bindparam("worker"),
        jobs.c.cancel_requested,
    )
)


def prepared(
    connection: Connection,
    claim: Claim,
    input: Document,
    reference_file_ids: Sequence[str],
    prior_key: str | None = None,
) -> None:
    """Hand a prepared job to the workers: its final input, and the files of its references.

    One that was to be let go of ends instead.
    """
    job = owned(connection, claim, "preparing")
    if job.cancel_requested:
        end(connection, job, stamp(connection), state="cancelled")
        return
    connection.execute(
        update(payloads).where(payloads.c.job_id == claim.job.id).values(input=input)
    )
    values: dict[str, Any] = {
        "state": "queued",
        "stage": "prior",
        "open_stage": "prior",
        "attempt": 0,
        "worker_id": None,
        "lease_until": None,
        "reference_file_ids": list(reference_file_ids),
        "change_number": stamp(connection, "work").change_number,
    }
    if prior_key is not None:
        values["prior_key"] = prior_key
    connection.execute(update(jobs).where(jobs.c.id == claim.job.id).values(values))


def save_priors(
    connection: Connection,
    claim: Claim,
    written: Sequence[Prior],
    model_revision: str,
    *,
    release: bool = False,
) -> None:
    """Keep all priors of a job, so that no crash repeats them.

    release: give the job back, for a worker of the decode stage; one that was to be let go of ends
    instead. model_revision: only workers of the same one may go on with it.
    """
    job = owned(connection, claim, "running")
    changed = stamp(connection, "work" if release else "change")
    store_priors(connection, job, written, model_revision, changed)
    values: dict[str, Any] = {
        "stage": "decode",
        "model_revision": model_revision,
        "change_number": changed.change_number,
    }
    if release:
        values |= {"open_stage": "decode", "worker_id": None, "lease_until": None, "attempt": 0}
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))
    if release and job.cancel_requested:
        end(connection, job, changed, state="cancelled")


def store_priors(
    connection: Connection, job: Job, written: Sequence[Prior], model_revision: str, changed: Stamp
) -> None:
    """Write the priors' rows, in place of those of an earlier attempt."""
    connection.execute(delete(priors).where(priors.c.job_id == job.id))
    if not written:
        return
    connection.execute(
        insert(priors),
        [
            {
                "job_id": job.id,
                "image_index": prior.image_index,
                "prior_key": job.prior_key,
                "model_revision": model_revision,
                "grid_height": prior.large_grid[0],
                "grid_width": prior.large_grid[1],
                "prior_token_ids": pack_tokens(prior.prior_token_ids),
                "created_at": changed.now,
            }
            for prior in written
        ],
    )


def finish(
    connection: Connection,
    claim: Claim,
    result: Document,
    made: Sequence[FileRecord],
    used: Usage | None,
) -> Job:
    """End a job well: its result, its files, what it costs and its webhook, or nothing at all."""
    job, changed = owned(connection, claim, "running"), stamp(connection)
    for record in made:
        _ADD_FILE.all(connection, file_values(record))
    if used is not None:
        record_usage(connection, job, used, changed.now)
    return end(connection, job, changed, state="done", status=200, result=result)


_ADD_FILE = Statement(insert(files))
_ADD_USAGE = Statement(insert(usage))


def record_usage(connection: Connection, job: Job, used: Usage, now: float) -> None:
    """Write down what a job costs."""
    who = {"job_id": job.id, "endpoint": job.endpoint, "api_key_id": job.api_key_id, "at": now}
    _ADD_USAGE.all(connection, who | usage_values(used))


def usage_values(used: Usage) -> dict[str, float]:
    return {
        "megapixels": used.megapixels,
        "unit_price": used.unit_price,
        "cost": used.cost,
        "duration_s": used.duration_s,
    }


def file_values(record: FileRecord) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in files.c}


def fail(
    connection: Connection, claim: Claim, status: int, body: Document, *, retryable: bool
) -> Job:
    """End a job with an error, or queue it again when that may help and attempts are left."""
    job, changed = owned(connection, claim), stamp(connection, "work" if retryable else "change")
    if not retryable:
        return end(connection, job, changed, state="failed", status=status, result=body)
    if job.attempt >= job.max_attempts and not job.cancel_requested:
        return give_up(connection, job, changed, reason=None, status=status, body=body)
    return put_back(connection, job, changed, reason=describe(body)[0])


def hand_back(connection: Connection, claim: Claim) -> Job:
    """Queue a job again that its worker will not finish; this attempt does not count."""
    job, changed = owned(connection, claim), stamp(connection, "work")
    return put_back(connection, job, changed, reason=None, attempt=job.attempt - 1)


def hand_back_others(connection: Connection, worker_id: str, held: Sequence[Claim]) -> list[Job]:
    """Queue again what a worker holds beside `held`, of which it may not know.

    Its claim may be written although the answer is lost, or nobody waits for it any more.
    """
    rows = connection.execute(
        select(*JOB_COLUMNS)
        .where(jobs.c.lease_until.is_not(None), jobs.c.worker_id == worker_id)
        .with_for_update()
    ).all()
    fences = {claim.job.id: claim.fence for claim in held}
    others = [job for job in map(job_from, rows) if fences.get(job.id) != job.fence]
    if not others:
        return []
    changed = stamp(connection, "work")
    return [
        put_back(connection, job, changed, reason=None, attempt=job.attempt - 1) for job in others
    ]


def confirm_cancelled(connection: Connection, claim: Claim) -> Job:
    """End a job whose cancelling was asked for, now that its worker has let go of it."""
    job, changed = owned(connection, claim), stamp(connection)
    return end(connection, job, changed, state="cancelled")


def owned(connection: Connection, claim: Claim, state: State | None = None) -> Job:
    """Return the job as it is now; raise LeaseLost unless the claim still holds.

    state: raise WrongState in any other.
    """
    row = _OWNED.first(connection, {"id": claim.job.id})
    if row is not None:
        job = job_from(row)
        holds = job.worker_id == claim.worker_id and job.fence == claim.fence
        if holds and not job.ended:
            if state is not None and job.state != state:
                raise WrongState(f"Job {job.id} is {job.state}, and should be {state} for this.")
            return job
    raise LeaseLost(f"The lease on job {claim.job.id} is lost.")
