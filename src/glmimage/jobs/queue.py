"""Jobs come in, are looked at, and are claimed."""

from __future__ import annotations

import sys
import uuid
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from . import order
from .database import Stamp, stamp, store_time
from .errors import QueueFull
from .records import Claim, Document, Job, NewJob, Prior, Stage
from .schema import api_keys, jobs, key_clocks, payloads, priors
from .statement import Statement

# the columns of `Job`, in its order; the payload is joined where it is asked for
JOB_COLUMNS = tuple(jobs.c[field.name] for field in fields(Job) if field.name in jobs.c)
_REFERENCES = [column.name for column in JOB_COLUMNS].index("reference_file_ids")
CLAIM_WINDOW = 500


def job_from(row: Row[Any] | Sequence[Any], *payload: Document | None) -> Job:
    """Build a Job from a row of JOB_COLUMNS, and its input and result."""
    values = list(row[: len(JOB_COLUMNS)])
    values[_REFERENCES] = tuple(values[_REFERENCES] or ())
    return Job(*values, *payload)


def enqueue(connection: Connection, new: NewJob) -> tuple[Job, int]:
    """Put a job at the end of its queue; return it with its position; raise QueueFull."""
    if new.max_queue_length is not None:
        length = order.queue_length(connection, new.endpoint)
        if length > new.max_queue_length:
            raise QueueFull(length, new.max_queue_length)
    changed = stamp(connection, "work")
    megapixels = new.num_images * new.width * new.height / 1e6
    place = order.next_place(connection, new.api_key_id, new.priority, megapixels)
    values = new_row(new, place, changed)
    values["state"] = "preparing" if new.needs_preparation else "queued"
    values["stage"] = values["open_stage"] = "prepare" if new.needs_preparation else "prior"
    values["queue"] = new.endpoint
    job = insert_job(connection, values, new.input, None)
    order.count_jobs(connection, [(new.endpoint, job.place)], 1)
    return job, order.position_of(connection, new.endpoint, job.place, job.number)


def new_row(new: NewJob, place: int, changed: Stamp) -> dict[str, Any]:
    """Return the columns of a new job, still without state and stage."""
    return {
        "id": new.id or str(uuid.uuid4()),
        "endpoint": new.endpoint,
        "surface": new.surface,
        "api_key_id": new.api_key_id,
        "priority": new.priority,
        "place": place,
        "num_images": new.num_images,
        "width": new.width,
        "height": new.height,
        "seed": new.seed,
        "created_at": changed.now,
        "start_deadline": new.start_deadline,
        "started_at": None,
        "finished_at": None,
        "attempt": 0,
        "max_attempts": new.max_attempts,
        "fence": 0,
        "worker_id": None,
        "lease_until": None,
        "cancel_requested": False,
        "status": None,
        "error": None,
        "error_type": None,
        "last_error": None,
        "dead": False,
        "served_from": None,
        "webhook_url": new.webhook_url,
        "lifecycle": new.lifecycle,
        "store_io": new.store_io,
        "cache_key": new.cache_key,
        "prior_key": new.prior_key,
        "reference_file_ids": list(new.reference_file_ids),
        "model_revision": None,
        "progress": 0.0,
        "last_log": 0,
        "change_number": changed.change_number,
        "queue": None,
        "open_stage": None,
        "trace_context": new.trace_context,
    }


def insert_job(
    connection: Connection, values: dict[str, Any], input: Document, result: Document | None
) -> Job:
    """Store a job's row and its payload."""
    number = _INSERT.scalar(connection, values)
    _INSERT_PAYLOAD.all(connection, {"job_id": values["id"], "input": input, "result": result})
    row = [values[column.name] if column is not jobs.c.number else number for column in JOB_COLUMNS]
    return job_from(row, input, result)


_INSERT = Statement(insert(jobs).returning(jobs.c.number))
_INSERT_PAYLOAD = Statement(insert(payloads))


def get(connection: Connection, job_id: str) -> Job | None:
    """Return a job with its payload."""
    row = _GET.first(connection, {"id": job_id})
    return None if row is None else job_from(row, *row[len(JOB_COLUMNS) :])


_GET = Statement(
    select(*JOB_COLUMNS, payloads.c.input, payloads.c.result)
    .outerjoin(payloads, payloads.c.job_id == jobs.c.id)
    .where(jobs.c.id == bindparam("id"))
)


def has_work(
    connection: Connection, stages: Sequence[Stage], model_revision: str | None = None
) -> bool:
    """Say whether a job waits for one of the stages, and for a worker of this revision."""
    for stage in stages:
        if model_revision is not None and stage == "decode":
            values = {"stage": stage, "revision": model_revision}
            found = _ANY_OF_REVISION.first(connection, values)
        else:
            found = _ANY_OPEN.first(connection, {"stage": stage})
        if found is not None:
            return True
    return False


_IN_ORDER = (
    select(jobs.c.number)
    .where(jobs.c.open_stage == bindparam("stage"))
    .order_by(jobs.c.place, jobs.c.number)  # so that no planner reads the table instead
    .limit(1)
)
_ANY_OPEN = Statement(_IN_ORDER)
_ANY_OF_REVISION = Statement(_IN_ORDER.where(jobs.c.model_revision == bindparam("revision")))


def count_open(connection: Connection) -> dict[str, int]:
    """Return how many jobs each stage may claim; for metrics and scaling."""
    rows = connection.execute(
        select(jobs.c.open_stage, func.count())
        .where(jobs.c.open_stage.is_not(None))
        .group_by(jobs.c.open_stage)
    )
    return {row[0]: row[1] for row in rows}


def claim(
    connection: Connection,
    worker_id: str,
    stages: Sequence[Stage],
    limit: int,
    lease_s: float,
    model_revision: str | None = None,
) -> list[Claim]:
    """Take up to `limit` jobs from the front, for `lease_s` seconds.

    model_revision: of the worker; a job whose prior another revision has written is left alone.
    """
    room = room_of_limited_keys(connection)
    chosen = choose(connection, stages, limit, model_revision, room)
    if not chosen:
        return []
    changed = stamp(connection)
    owner = {
        "worker": worker_id,
        "until": changed.now + lease_s,
        "change": changed.change_number,
    }
    rows, inputs = [], []
    for row in chosen:
        take = _PREPARE if row.stage == "prepare" else _RUN
        values = owner | {"taken": row.number}
        if row.stage != "prepare":
            values["now"] = changed.now
        rows.append(take.first(connection, values))
        inputs.append(_INPUT.scalar(connection, {"id": rows[-1][1]}))
    order.advance_clock(connection, [row.place for row in chosen])
    leaving = [(row.queue, row.place) for row in chosen if row.stage != "prepare" and row.queue]
    order.count_jobs(connection, leaving, -1)
    return claims_from(connection, rows, inputs, worker_id)


class Candidate(NamedTuple):
    """A job that may be claimed."""

    number: int
    place: int
    stage: Stage
    queue: str | None
    api_key_id: str | None


def choose(
    connection: Connection,
    stages: Sequence[Stage],
    limit: int,
    model_revision: str | None,
    room: dict[str, int],
) -> list[Candidate]:
    """Return the jobs to claim next, in order."""
    now = store_time(connection)
    found: list[Candidate] = []
    for stage in stages:
        found += _candidates(connection, stage, limit, now, model_revision, room)
    chosen: list[Candidate] = []
    taken: Counter[str | None] = Counter()
    for row in sorted(found, key=lambda row: (row.place, row.number)):
        key = row.api_key_id
        if len(chosen) == limit:
            break
        if key not in room or taken[key] < room[key]:
            taken[key] += 1
            chosen.append(row)
    return chosen


def _candidates(
    connection: Connection,
    stage: Stage,
    limit: int,
    now: float,
    model_revision: str | None,
    room: dict[str, int],
) -> list[Candidate]:
    query = _FRONT
    values: dict[str, Any] = {"stage": stage, "now": now, "limit": limit}
    if model_revision is not None and stage == "decode":
        query, values["revision"] = _FRONT_OF_REVISION, model_revision
    full = {key for key, places in room.items() if places <= 0}
    if not room:
        return [Candidate(*row) for row in query.all(connection, values)]
    # A key at its limit may fill the front of the queue: look a little further, then key by key.
    window = [Candidate(*row) for row in query.all(connection, values | {"limit": CLAIM_WINDOW})]
    found = [row for row in window if row.api_key_id not in full]
    if len(found) < limit and full and len(window) == CLAIM_WINDOW:
        keys = connection.execute(select(key_clocks.c.api_key_id).distinct()).scalars().all()
        for key in keys:
            if key not in full:
                of_key = jobs.c.api_key_id == key if key else jobs.c.api_key_id.is_(None)
                rows = connection.execute(query.core.where(of_key), values)  # type: ignore[attr-defined]
                found += [Candidate(*row) for row in rows]
    return list({row.number: row for row in found}.values())


def open_jobs(stage: Any, now: Any, revision: Any = None) -> Any:
    """Select what may be claimed now, in order. revision: of the priors, for the decode stage."""
    columns = (jobs.c[name] for name in ("number", "place", "open_stage", "queue", "api_key_id"))
    in_time = (
        jobs.c.start_deadline.is_(None),
        jobs.c.started_at.is_not(None),
        jobs.c.start_deadline > now,
    )
    query = select(*columns).where(jobs.c.open_stage == stage, or_(*in_time))
    if revision is not None:
        query = query.where(jobs.c.model_revision == revision)
    return query.order_by(jobs.c.place, jobs.c.number)


_BOUND: Any = [bindparam(name) for name in ("stage", "now", "revision")]
_FRONT = Statement(open_jobs(*_BOUND[:2]).limit(bindparam("limit")))
_FRONT_OF_REVISION = Statement(open_jobs(*_BOUND).limit(bindparam("limit")))


def room_of_limited_keys(connection: Connection) -> dict[str, int]:
    """Return how many more jobs may run, of each key with a limit; others may not claim now."""
    limited = _LIMITED.all(connection, {})
    if not limited:
        return {}
    busy: dict[str | None, int] = dict(_RUNNING.all(connection, {}))
    return {key: concurrency - busy.get(key, 0) for key, concurrency in limited}


_LIMITED = Statement(
    select(api_keys.c.id, api_keys.c.concurrency)
    .where(api_keys.c.concurrency.is_not(None), api_keys.c.revoked_at.is_(None))
    .order_by(api_keys.c.id)
    .with_for_update()
)
_RUNNING = Statement(
    select(jobs.c.api_key_id, func.count())
    .where(jobs.c.lease_until.is_not(None), jobs.c.state == "running")
    .group_by(jobs.c.api_key_id)
)


def claims_from(
    connection: Connection, rows: Sequence[Any], inputs: Sequence[Any], worker_id: str
) -> list[Claim]:
    """Return the claims to jobs that were taken, with their priors, in the order of the queue."""
    taken = [job_from(row, input, None) for row, input in zip(rows, inputs, strict=True)]
    written = read_priors(connection, [job.id for job in taken if job.stage == "decode"])
    return [
        Claim(job, worker_id, job.fence, job.attempt, tuple(written.get(job.id, ())))
        for job in sorted(taken, key=lambda job: (job.place, job.number))
    ]


_TAKE = (
    update(jobs)
    .where(jobs.c.number == bindparam("taken"))
    .values(
        worker_id=bindparam("worker"),
        lease_until=bindparam("until"),
        fence=jobs.c.fence + 1,
        attempt=jobs.c.attempt + 1,
        open_stage=None,
        change_number=bindparam("change"),
    )
    .returning(*JOB_COLUMNS)
)
_PREPARE = Statement(_TAKE)
_RUN = Statement(
    _TAKE.values(
        state="running",
        queue=None,
        started_at=func.coalesce(jobs.c.started_at, bindparam("now", type_=jobs.c.started_at.type)),
    )
)
_INPUT = Statement(select(payloads.c.input).where(payloads.c.job_id == bindparam("id")))


def read_priors(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[Prior]]:
    """Return the stored priors of jobs, each job's in order."""
    found: dict[str, list[Prior]] = {}
    if not job_ids:
        return found
    query = select(priors).where(priors.c.job_id.in_(job_ids)).order_by(priors.c.image_index)
    for row in connection.execute(query):
        ids = unpack_tokens(row.prior_token_ids)
        prior = Prior(row.image_index, (row.grid_height, row.grid_width), ids)
        found.setdefault(row.job_id, []).append(prior)
    return found


def pack_tokens(ids: Iterable[int]) -> bytes:
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_tokens(content: bytes) -> tuple[int, ...]:
    packed = array("I")
    packed.frombytes(content)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)
