"""How a job ends, with its webhook in the same transaction, and how it comes back."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from . import order
from .database import Stamp, stamp, store_time
from .figures import count_lease_losses
from .queue import JOB_COLUMNS, get, insert_job, job_from, new_row
from .records import CancelAnswer, Document, Job, NewJob, State, Usage
from .schema import jobs, payloads, webhooks
from .statement import Statement

CANCELLED: Document = {"detail": "Request cancelled", "error_type": "client_cancelled"}
TIMED_OUT: Document = {"detail": "Request timed out", "error_type": "request_timeout"}
GAVE_UP = "The picture could not be made after {} attempts."
LOST_WORKER = "The worker stopped answering."
BATCH = 500


def end(
    connection: Connection,
    job: Job,
    changed: Stamp,
    *,
    state: State,
    status: int = 499,
    result: Document = CANCELLED,
    dead: bool = False,
    last_error: str | None = None,
) -> Job:
    """Bring a job to its end: state, answer, webhook."""
    was_waiting = job.waiting
    columns = ended(state, status, result) | {"dead": dead}
    if last_error is not None:
        columns["last_error"] = last_error
    job = replace(
        job,
        **columns,
        change_number=changed.change_number,
        finished_at=changed.now,
        worker_id=None,
        lease_until=None,
        input=None,
        result=result,
    )
    if was_waiting:
        order.count_jobs(connection, [(job.endpoint, job.place)], -1)
    _END.all(connection, {name: getattr(job, name) for name in _ENDS} | {"job": job.number})
    _ANSWER.all(connection, {"job": job.id, "result": result})
    if job.webhook_url:
        write_webhook(connection, job.id, job.webhook_url, changed.now)
    return job


_ENDS = (
    *("state", "status", "error", "error_type", "progress", "dead", "last_error"),
    *("change_number", "finished_at"),
)
_END = Statement(
    update(jobs)
    .where(jobs.c.number == bindparam("job"))
    .values({name: bindparam(name) for name in _ENDS})
    .values(worker_id=None, lease_until=None, open_stage=None, queue=None)
)
_ANSWER = Statement(
    update(payloads)
    .where(payloads.c.job_id == bindparam("job"))
    .values(result=bindparam("result", type_=payloads.c.result.type))
)


def ended(state: State, status: int, result: Document) -> dict[str, Any]:
    """Return the columns that say how a job ended."""
    if state == "done":
        return {"state": state, "status": status, "progress": 1.0}
    error, error_type = describe(result)
    return {"state": state, "status": status, "error": error, "error_type": error_type}


def describe(body: Document) -> tuple[str, str | None]:
    """Return an error body's sentence and type, in either of fal's forms."""
    detail = body.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return str(detail[0].get("msg", "")), detail[0].get("type")
    return str(detail or "The request failed."), body.get("error_type")


_ADD_WEBHOOK = Statement(insert(webhooks))


def write_webhook(connection: Connection, job_id: str, url: str, now: float) -> None:
    """Put a delivery into the outbox."""
    _ADD_WEBHOOK.all(
        connection,
        {
            "id": str(uuid.uuid4()),
            "job_id": job_id,
            "url": url,
            "state": "pending",
            "attempts": 0,
            "created_at": now,
            "next_attempt": now,
        },
    )


def put_back(
    connection: Connection,
    job: Job,
    changed: Stamp,
    *,
    reason: str | None,
    attempt: int | None = None,
) -> Job:
    """Make a claimed job claimable again, at its old place and with what it has got.

    One that its worker was asked to let go of ends instead: nobody else will be asked.
    """
    if job.cancel_requested:
        return end(connection, job, changed, state="cancelled")
    values: dict[str, Any] = {
        "open_stage": job.stage,
        "worker_id": None,
        "lease_until": None,
        "change_number": changed.change_number,
    }
    if job.state == "running":
        values |= {"state": "queued", "queue": job.endpoint, "progress": 0.0}
        order.count_jobs(connection, [(job.endpoint, job.place)], 1)
    if reason is not None:
        values["last_error"] = reason
    if attempt is not None:
        values["attempt"] = attempt
    row = connection.execute(
        update(jobs).where(jobs.c.number == job.number).values(values).returning(*JOB_COLUMNS)
    ).one()
    return job_from(row)


def give_up(
    connection: Connection,
    job: Job,
    changed: Stamp,
    *,
    reason: str | None,
    status: int = 500,
    body: Document | None = None,
) -> Job:
    """End a job that has no attempt left; it stays visible as dead and can be retried by hand."""
    if body is None:
        message = GAVE_UP.format(job.attempt)
        body = {"detail": [{"loc": ["body"], "msg": message, "type": "internal_server_error"}]}
    return end(
        connection,
        job,
        changed,
        state="failed",
        status=status,
        result=body,
        dead=True,
        last_error=reason or describe(body)[0],
    )


def insert_ended(
    connection: Connection,
    new: NewJob,
    state: State,
    status: int,
    result: Document,
    served_from: str | None = None,
    used: Usage | None = None,
) -> Job:
    """Store a job that ends as it begins: invalid, refused, or answered from the cache."""
    from .leases import record_usage

    changed = stamp(connection)
    # it takes no place in the queue; should it be retried, it stands at the front
    place = order.front(connection, new.priority)
    values = new_row(new, place, changed) | ended(state, status, result)
    values |= {
        "stage": "prior",
        "started_at": changed.now,
        "finished_at": changed.now,
        "served_from": served_from,
    }
    job = insert_job(connection, values, new.input, result)
    if new.webhook_url:
        write_webhook(connection, job.id, new.webhook_url, changed.now)
    if used is not None:
        record_usage(connection, job, used, changed.now)
    return job


def cancel(connection: Connection, job_id: str, body: Document = CANCELLED) -> CancelAnswer:
    """End a job that waits; ask the worker of one that runs to let go."""
    row = connection.execute(_lock_by_id(job_id)).first()
    if row is None:
        return "missing"
    job = job_from(row)
    if job.ended:
        return "done"
    if job.cancel_requested and job.worker_id is not None:
        return "requested"
    changed = stamp(connection, "cancel")
    if job.worker_id is None:
        end(connection, job, changed, state="cancelled", result=body)
        return "requested"
    connection.execute(
        update(jobs)
        .where(jobs.c.number == job.number)
        .values(cancel_requested=True, change_number=changed.change_number)
    )
    return "requested"


def _lock_by_id(job_id: str) -> Any:
    return select(*JOB_COLUMNS).where(jobs.c.id == job_id).with_for_update()


def recover_leases(connection: Connection, now: float | None = None) -> list[Job]:
    """Free the jobs whose leases have run out: queue them again, or give them up."""
    now = store_time(connection) if now is None else now
    rows = connection.execute(
        select(*JOB_COLUMNS)
        .where(jobs.c.lease_until.is_not(None), jobs.c.lease_until < now)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return []
    count_lease_losses(connection, len(rows))
    recovered, changed = [], stamp(connection, "work")
    for job in map(job_from, rows):
        if job.attempt >= job.max_attempts and not job.cancel_requested:
            recovered.append(give_up(connection, job, changed, reason=LOST_WORKER))
        else:
            recovered.append(put_back(connection, job, changed, reason=LOST_WORKER))
    return recovered


def expire_starts(connection: Connection, now: float | None = None) -> list[Job]:
    """Fail the jobs that nobody has begun before their deadline."""
    now = store_time(connection) if now is None else now
    rows = connection.execute(
        select(*JOB_COLUMNS)
        .where(
            jobs.c.queue.is_not(None),
            jobs.c.start_deadline < now,
            jobs.c.started_at.is_(None),
        )
        .order_by(jobs.c.start_deadline)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return []
    changed = stamp(connection)
    return [
        end(connection, job, changed, state="failed", status=504, result=TIMED_OUT)
        for job in map(job_from, rows)
    ]


def retry(connection: Connection, job_id: str) -> Job | None:
    """Queue a failed or cancelled job once more, with all attempts; None when there is none."""
    row = connection.execute(_lock_by_id(job_id)).first()
    if row is None or row.state not in ("failed", "cancelled"):
        return None
    changed, job = stamp(connection, "work"), job_from(row)
    stage = job.stage
    if get_input(connection, job_id) is None:
        return None
    connection.execute(
        update(jobs)
        .where(jobs.c.number == job.number)
        .values(
            state="preparing" if stage == "prepare" else "queued",
            open_stage=stage,
            queue=job.endpoint,
            attempt=0,
            status=None,
            error=None,
            error_type=None,
            dead=False,
            cancel_requested=False,
            finished_at=None,
            start_deadline=None,
            progress=0.0,
            change_number=changed.change_number,
        )
    )
    connection.execute(update(payloads).where(payloads.c.job_id == job_id).values(result=None))
    order.count_jobs(connection, [(job.endpoint, job.place)], 1)
    return get(connection, job_id)


def get_input(connection: Connection, job_id: str) -> Document | None:
    """Return a job's input, None once it is deleted."""
    found: Document | None = connection.execute(
        select(payloads.c.input).where(payloads.c.job_id == job_id)
    ).scalar()
    return found
