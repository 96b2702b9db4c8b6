"""What every job goes through, on PostgreSQL: enqueue, claim and finish, each in one statement.

A transaction keeps what it has locked for as long as its round trips take. These do what their
namesakes in `queue` and `leases` do.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    Connection,
    Float,
    Select,
    Text,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as insert_or_update

from . import leases, order, queue, schema
from .database import Stamp
from .endings import ended
from .errors import QueueFull
from .postgres_batch import CALLER, Step
from .queue import JOB_COLUMNS, claims_from, job_from, new_row
from .records import Claim, Document, FileRecord, Job, NewJob, Stage, Usage
from .schema import counters, files, jobs, key_clocks, payloads, queue_counts, webhooks
from .schema import usage as usage_table
from .statement import Statement

_NO_LIMIT = 1 << 62
_MOMENT = (
    text(
        "SELECT pg_current_xact_id()::text::bigint AS change_number, "
        "extract(epoch FROM clock_timestamp())::float8 AS now"
    )
    .columns(column("change_number", BigInteger), column("now", Float))
    .cte("moment")
)
_NOW = select(_MOMENT.c.now).scalar_subquery()
_CHANGE_NUMBER = select(_MOMENT.c.change_number).scalar_subquery()
_GIVEN_BY_SERVER = ("place", "created_at", "change_number")


def _bind(of: Column[Any], name: str | None = None) -> Any:
    return bindparam(name or of.name, type_=of.type)


def _notify(topic: str) -> Any:
    return func.pg_notify("glmimage", topic)


def _count(rows: CTE | Select[Any], step: Any) -> CTE:
    """Add `step` to the counts of the stretches in which `rows` of (queue, place) are."""
    source = rows.subquery() if isinstance(rows, Select) else rows
    bucket = source.c.place // bindparam("bucket_places", type_=BigInteger())
    changes = select(
        source.c.queue, bucket, bindparam("stripe", type_=queue_counts.c.stripe.type), step
    ).group_by(source.c.queue, bucket)
    row = insert_or_update(queue_counts).from_select([c.name for c in queue_counts.c], changes)
    return row.on_conflict_do_update(
        index_elements=list(queue_counts.primary_key),
        set_={"num_jobs": queue_counts.c.num_jobs + row.excluded.num_jobs},
    ).cte("counted")


def _counting(connection: Connection) -> dict[str, int]:
    return {"bucket_places": order.BUCKET_PLACES, "stripe": order.stripe_of(connection)}


# enqueue


class _Queued(NamedTuple):
    """A row of `_enqueue`."""

    number: int | None
    place: int
    position: int
    length: int
    now: float
    change_number: int
    notified: None
    caller: int


def _ask_enqueue(connection: Connection, new: NewJob) -> tuple[Statement, dict[str, Any]]:
    stage = "prepare" if new.needs_preparation else "prior"
    values = new_row(new, 0, Stamp(0, 0.0)) | {
        "state": "preparing" if new.needs_preparation else "queued",
        "stage": stage,
        "open_stage": stage,
        "queue": new.endpoint,
        "input": new.input,
        "limit": _NO_LIMIT if new.max_queue_length is None else new.max_queue_length,
        "clock": new.api_key_id or "",
        "cost": order.cost_of(new.num_images * new.width * new.height / 1e6),
        "offset": schema.LOW_PRIORITY if new.priority == "low" else 0,
    }
    for name in _GIVEN_BY_SERVER:
        del values[name]
    return _enqueue(), values | _counting(connection)


def _queued(
    connection: Connection, args: tuple[NewJob], values: dict[str, Any], rows: Sequence[Any]
) -> tuple[Job, int]:
    row = _Queued(*rows[0])
    if row.number is None:
        raise QueueFull(row.length, values["limit"])
    values = values | {"number": row.number, "place": row.place}
    values |= {"created_at": row.now, "change_number": row.change_number}
    job = job_from([values[column.name] for column in JOB_COLUMNS], values["input"], None)
    return job, int(row.position)


enqueue = Step(_ask_enqueue, _queued)
"""See queue.enqueue."""


@cache
def _enqueue() -> Statement:
    room = order.LENGTH.cte("room")
    accepted = room.c.length <= bindparam("limit", type_=BigInteger())
    cost = bindparam("cost", type_=BigInteger())
    priority = _bind(jobs.c.priority)
    start = select(counters.c.value).where(counters.c.name == priority).scalar_subquery()
    clock = insert_or_update(key_clocks).from_select(
        ["api_key_id", "priority", "next_place"],
        select(_bind(key_clocks.c.api_key_id, "clock"), priority, start + cost).where(accepted),
    )
    following = key_clocks.c.next_place
    moved = (
        clock.on_conflict_do_update(
            index_elements=list(key_clocks.primary_key),
            set_={"next_place": func.greatest(following, start) + cost},
        )
        .returning(following)
        .cte("moved")
    )
    given: dict[str, Any] = {c.name: _bind(c) for c in jobs.c if c is not jobs.c.number}
    given["place"] = moved.c.next_place - cost + bindparam("offset", type_=BigInteger())
    given["created_at"], given["change_number"] = _NOW, _CHANGE_NUMBER
    job = (
        insert(jobs)
        .from_select(list(given), select(*given.values()).select_from(moved))
        .returning(jobs.c.number, jobs.c.id, jobs.c.queue, jobs.c.place)
        .cte("job")
    )
    payload = insert(payloads).from_select(
        ["job_id", "input"], select(job.c.id, _bind(payloads.c.input))
    )
    answer = select(
        job.c.number,
        job.c.place,
        order.jobs_before(job.c.queue, job.c.place, job.c.number).label("position"),
        room.c.length,
        _MOMENT.c.now,
        _MOMENT.c.change_number,
        _notify("work"),
        CALLER,
    )
    sources = room.join(_MOMENT, literal(True)).outerjoin(job, literal(True))
    parts = (payload.cte("payload"), _count(job, func.count()))
    return Statement(answer.select_from(sources).add_cte(*parts))


# claim


def _ask_claim(
    connection: Connection,
    worker_id: str,
    stages: Sequence[Stage],
    limit: int,
    lease_s: float,
    model_revision: str | None,
) -> tuple[Statement, dict[str, Any]]:
    values: dict[str, Any] = {"worker": worker_id, "lease_s": lease_s} | _counting(connection)
    with_revision = model_revision is not None and "decode" in stages
    if with_revision:
        values["revision"] = model_revision
    return _claim_front(tuple(stages), limit, with_revision), values


def _claimed(
    connection: Connection, args: tuple[Any, ...], values: dict[str, Any], rows: Sequence[Any]
) -> list[Claim]:
    worker_id, stages, limit, _, revision = args
    if not rows:
        # nothing is there, or keys have limits, which takes a closer look
        room = queue.room_of_limited_keys(connection)
        if not room:
            return []
        chosen = queue.choose(connection, stages, limit, revision, room)
        if not chosen:
            return []
        numbers = [row.number for row in chosen]
        values = {name: value for name, value in values.items() if name != "revision"}
        rows = _claim_chosen().all(connection, values | {"numbers": numbers, "caller": 0})
    inputs = [row[len(JOB_COLUMNS)] for row in rows]
    return claims_from(connection, rows, inputs, worker_id)


claim = Step(_ask_claim, _claimed)
"""See queue.claim."""


@cache
def _claim_front(stages: tuple[Stage, ...], limit: int, with_revision: bool) -> Statement:
    """Claim from the front of the queue, unless a key has a limit.

    limit stands in the text: of a parameter the planner would think that it takes a tenth of the
    table.
    """
    limits = text("SELECT FROM api_keys WHERE concurrency IS NOT NULL AND revoked_at IS NULL")
    count: Any = literal_column(str(int(limit)))
    fronts = []
    for stage in stages:
        revision = bindparam("revision", type_=Text()) if with_revision else None
        query = queue.open_jobs(
            literal(stage, Text()),
            func.extract("epoch", func.clock_timestamp()),
            revision if stage == "decode" else None,
        )
        query = query.where(text(f"NOT EXISTS ({limits})")).limit(count)
        fronts.append(query.with_for_update(skip_locked=True, of=jobs).cte(f"front_{stage}"))
    together = union_all(*(select(front) for front in fronts)).subquery()
    first = select(together).order_by(together.c.place, together.c.number).limit(count)
    return _claim(first.cte("chosen"))


@cache
def _claim_chosen() -> Statement:
    columns = (jobs.c[name] for name in ("number", "place", "open_stage", "queue"))
    numbers = bindparam("numbers", type_=ARRAY(BigInteger))
    still_open = select(*columns).where(
        jobs.c.number == func.any(numbers), jobs.c.open_stage.is_not(None)
    )
    return _claim(still_open.with_for_update(skip_locked=True).cte("chosen"))


def _claim(chosen: CTE) -> Statement:
    preparing = chosen.c.open_stage == "prepare"
    taken = (
        update(jobs)
        .where(jobs.c.number == chosen.c.number)
        .values(
            worker_id=bindparam("worker", type_=Text()),
            lease_until=_NOW + bindparam("lease_s", type_=Float(53)),
            fence=jobs.c.fence + 1,
            attempt=jobs.c.attempt + 1,
            open_stage=None,
            change_number=_CHANGE_NUMBER,
            state=case((preparing, jobs.c.state), else_="running"),
            queue=case((preparing, jobs.c.queue), else_=null()),
            started_at=case(
                (preparing, jobs.c.started_at),
                else_=func.coalesce(jobs.c.started_at, _NOW),
            ),
        )
        .returning(*JOB_COLUMNS)
        .cte("taken")
    )
    leaving = select(chosen.c.queue, chosen.c.place).where(
        chosen.c.queue.is_not(None), chosen.c.open_stage != "prepare"
    )
    low = chosen.c.place >= schema.LOW_PRIORITY
    name = case((low, "low"), else_="normal").label("name")
    latest = (
        select(name, func.max(chosen.c.place % schema.LOW_PRIORITY).label("place"))
        .group_by(name)
        .cte("latest")
    )
    behind = (
        select(counters.c.name, latest.c.place)
        .join(latest, (counters.c.name == latest.c.name) & (counters.c.value < latest.c.place))
        .with_for_update(skip_locked=True, of=counters)
        .cte("behind")
    )
    advanced = update(counters).where(counters.c.name == behind.c.name).values(value=behind.c.place)
    return Statement(
        select(*taken.c, payloads.c.input, _notify("change"), CALLER)
        .outerjoin(payloads, payloads.c.job_id == taken.c.id)
        .add_cte(_count(leaving, -func.count()), advanced.cte("advanced"))
    )


# finish


def _ask_finish(
    connection: Connection,
    claim: Claim,
    result: Document,
    made: Sequence[FileRecord],
    used: Usage | None,
) -> tuple[Statement, dict[str, Any]]:
    values: dict[str, Any] = {
        "done_id": claim.job.id,
        "worker": claim.worker_id,
        "claimed": claim.fence,
        "result": result,
        "webhook_id": str(uuid.uuid4()),
    } | ended("done", 200, result)
    if used is not None:
        values |= leases.usage_values(used)
    for number, record in enumerate(made):
        file = leases.file_values(record)
        values |= {f"{name}_{number}": value for name, value in file.items()}
    return _finish(len(made), used is not None), values


def _finished(
    connection: Connection, args: tuple[Any, ...], values: dict[str, Any], rows: Sequence[Any]
) -> Job:
    if not rows:  # the lease is lost, or the job is not running: it says which
        return leases.finish(connection, *args)
    return job_from(rows[0], None, values["result"])


finish = Step(_ask_finish, _finished)
"""See leases.finish."""


@cache
def _finish(num_files: int, with_usage: bool) -> Statement:
    done = (
        update(jobs)
        .where(
            jobs.c.id == _bind(jobs.c.id, "done_id"),
            jobs.c.worker_id == _bind(jobs.c.worker_id, "worker"),
            jobs.c.fence == _bind(jobs.c.fence, "claimed"),
            jobs.c.state == "running",
        )
        .values(
            state=_bind(jobs.c.state),
            status=_bind(jobs.c.status),
            progress=_bind(jobs.c.progress),
            finished_at=_NOW,
            change_number=_CHANGE_NUMBER,
            worker_id=None,
            lease_until=None,
            open_stage=None,
            queue=None,
        )
        .returning(*JOB_COLUMNS)
        .cte("done")
    )
    answer = (
        update(payloads)
        .where(payloads.c.job_id == done.c.id)
        .values(result=_bind(payloads.c.result))
    )
    hook = insert(webhooks).from_select(
        ["id", "job_id", "url", "state", "attempts", "created_at", "next_attempt"],
        select(
            _bind(webhooks.c.id, "webhook_id"),
            done.c.id,
            done.c.webhook_url,
            literal("pending"),
            literal(0),
            done.c.finished_at,
            done.c.finished_at,
        ).where(done.c.webhook_url.is_not(None)),
    )
    parts = [answer.cte("answer"), hook.cte("hook")]
    for number in range(num_files):
        file = select(*(_bind(c, f"{c.name}_{number}") for c in files.c)).select_from(done)
        parts.append(
            insert(files).from_select([c.name for c in files.c], file).cte(f"file_{number}")
        )
    if with_usage:
        amounts = ("megapixels", "unit_price", "cost", "duration_s")
        names = ["job_id", "endpoint", "api_key_id", "at", *amounts]
        row = (done.c.id, done.c.endpoint, done.c.api_key_id, done.c.finished_at)
        used = select(*row, *(_bind(usage_table.c[name]) for name in amounts))
        parts.append(insert(usage_table).from_select(names, used).cte("used"))
    return Statement(select(*done.c, _notify("change"), CALLER).add_cte(*parts))
