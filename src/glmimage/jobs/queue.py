"""Jobs come in, are looked at, and are claimed."""

from __future__ import annotations

import sys
import uuid
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from . import order
from .database import Stamp, stamp, store_time
from .errors import QueueFull
from .records import Claim, Document, Job, NewJob, Prior, Stage
from .schema import api_keys, jobs, key_clocks, payloads, priors

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
    changed = stamp(connection)
    values = new_row(connection, new, changed)
    values["state"] = "preparing" if new.needs_preparation else "queued"
    values["stage"] = values["open_stage"] = "prepare" if new.needs_preparation else "prior"
    values["queue"] = new.endpoint
    job = insert_job(connection, values, new.input, None)
    order.count_jobs(connection, [(new.endpoint, job.place)], 1)
    return job, order.position_of(connection, new.endpoint, job.place, job.number)


def new_row(connection: Connection, new: NewJob, changed: Stamp) -> dict[str, Any]:
    """Return the columns of a new job, still without state and stage."""
    megapixels = new.num_images * new.width * new.height / 1e6
    place = order.next_place(connection, new.api_key_id, new.priority, megapixels)
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
    number = connection.execute(_INSERT, values).scalar_one()
    connection.execute(_INSERT_PAYLOAD, {"job_id": values["id"], "input": input, "result": result})
    row = [values[column.name] if column is not jobs.c.number else number for column in JOB_COLUMNS]
    return job_from(row, input, result)


_INSERT = insert(jobs).returning(jobs.c.number)
_INSERT_PAYLOAD = insert(payloads)


def get(connection: Connection, job_id: str) -> Job | None:
    """Return a job with its payload."""
    row = connection.execute(_GET, {"id": job_id}).first()
    return None if row is None else job_from(row, row.input, row.result)


_GET = (
    select(*JOB_COLUMNS, payloads.c.input, payloads.c.result)
    .outerjoin(payloads, payloads.c.job_id == jobs.c.id)
    .where(jobs.c.id == bindparam("id"))
)


def has_work(connection: Connection, stages: Sequence[Stage]) -> bool:
    """Say whether a job waits for one of the stages."""
    return any(connection.execute(_ANY_OPEN, {"stage": stage}).first() for stage in stages)


_ANY_OPEN = (
    select(jobs.c.number)
    .where(jobs.c.open_stage == bindparam("stage"))
    .order_by(jobs.c.place, jobs.c.number)  # so that no planner reads the table instead
    .limit(1)
)


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
    now = store_time(connection)
    room = _room_of_limited_keys(connection)
    found: list[Any] = []
    for stage in stages:
        found += _candidates(connection, stage, limit, now, model_revision, room)
    chosen = _choose(sorted(found, key=lambda row: (row.place, row.number)), limit, room)
    if not chosen:
        return []
    changed = stamp(connection)
    order.advance_clock(connection, [row.place for row in chosen])
    claims = []
    for preparing in (True, False):
        rows = [row for row in chosen if (row.open_stage == "prepare") is preparing]
        if rows:
            claims += _take(connection, rows, worker_id, lease_s, changed, preparing=preparing)
    return claims


def _candidates(
    connection: Connection,
    stage: Stage,
    limit: int,
    now: float,
    model_revision: str | None,
    room: dict[str, int],
) -> Sequence[Any]:
    query = _OPEN
    values: dict[str, Any] = {"stage": stage, "now": now, "limit": limit}
    if model_revision is not None:
        query, values["revision"] = _OPEN_FOR_REVISION, model_revision
    full = {key for key, places in room.items() if places <= 0}
    if not room:
        return connection.execute(query, values).all()
    # A key at its limit may fill the front of the queue: look a little further, then key by key.
    window = values | {"limit": CLAIM_WINDOW}
    rows = [row for row in connection.execute(query, window) if row.api_key_id not in full]
    if len(rows) >= limit or not full:
        return rows
    keys = connection.execute(select(key_clocks.c.api_key_id).distinct()).scalars().all()
    for key in keys:
        if key not in full:
            of_key = jobs.c.api_key_id == key if key else jobs.c.api_key_id.is_(None)
            rows += connection.execute(query.where(of_key), values).all()
    return list({row.number: row for row in rows}.values())


_OPEN = (
    select(*(jobs.c[name] for name in ("number", "place", "open_stage", "queue", "api_key_id")))
    .where(
        jobs.c.open_stage == bindparam("stage"),
        or_(
            jobs.c.start_deadline.is_(None),
            jobs.c.started_at.is_not(None),
            jobs.c.start_deadline > bindparam("now"),
        ),
    )
    .order_by(jobs.c.place, jobs.c.number)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_OPEN_FOR_REVISION = _OPEN.where(
    or_(jobs.c.model_revision.is_(None), jobs.c.model_revision == bindparam("revision"))
)


def _room_of_limited_keys(connection: Connection) -> dict[str, int]:
    """Return how many more jobs may run, of each key with a limit; others may not claim now."""
    limited = connection.execute(_LIMITED).all()
    if not limited:
        return {}
    running = connection.execute(_RUNNING)
    busy: dict[str | None, int] = {row[0]: row[1] for row in running}
    return {key: concurrency - busy.get(key, 0) for key, concurrency in limited}


_LIMITED = (
    select(api_keys.c.id, api_keys.c.concurrency)
    .where(api_keys.c.concurrency.is_not(None), api_keys.c.revoked_at.is_(None))
    .order_by(api_keys.c.id)
    .with_for_update()
)
_RUNNING = (
    select(jobs.c.api_key_id, func.count())
    .where(jobs.c.lease_until.is_not(None), jobs.c.state == "running")
    .group_by(jobs.c.api_key_id)
)


def _choose(rows: Iterable[Any], limit: int, room: dict[str, int]) -> list[Any]:
    chosen: list[Any] = []
    taken: Counter[str | None] = Counter()
    for row in rows:
        key = row.api_key_id
        if len(chosen) == limit:
            break
        if key not in room or taken[key] < room[key]:
            taken[key] += 1
            chosen.append(row)
    return chosen


def _take(
    connection: Connection,
    rows: Sequence[Any],
    worker_id: str,
    lease_s: float,
    changed: Stamp,
    *,
    preparing: bool,
) -> list[Claim]:
    if not preparing:
        order.count_jobs(connection, [(r.queue, r.place) for r in rows if r.queue], -1)
    values = {
        "numbers": [row.number for row in rows],
        "worker": worker_id,
        "until": changed.now + lease_s,
        "now": changed.now,
        "change": changed.change_number,
    }
    if preparing:
        del values["now"]
    taken = connection.execute(_PREPARE if preparing else _RUN, values).all()
    ids = [row.id for row in taken]
    inputs = connection.execute(_INPUTS, {"ids": ids})
    input_of = {row.job_id: row.input for row in inputs}
    written = read_priors(connection, [row.id for row in taken if row.stage == "decode"])
    jobs_taken = [job_from(row, input_of.get(row.id), None) for row in taken]
    return [
        Claim(job, worker_id, job.fence, job.attempt, tuple(written.get(job.id, ())))
        for job in sorted(jobs_taken, key=lambda job: (job.place, job.number))
    ]


_PREPARE = (
    update(jobs)
    .where(jobs.c.number.in_(bindparam("numbers", expanding=True)))
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
_RUN = _PREPARE.values(
    state="running",
    queue=None,
    started_at=func.coalesce(jobs.c.started_at, bindparam("now", type_=jobs.c.started_at.type)),
)
_INPUTS = select(payloads.c.job_id, payloads.c.input).where(
    payloads.c.job_id.in_(bindparam("ids", expanding=True))
)


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
