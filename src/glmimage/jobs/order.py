"""Where a job stands in the queue: priority, then fairness across keys, then age.

Start-time fair queueing (Goyal, Vin, Cheng, 1996): a key's jobs stand one behind the other, each as
far as the one before is large (megapixels), and a key that comes back starts where the queue is
now. So the places are fixed when a job comes in, one index orders them, and a key with a thousand
jobs delays another key's first one by no more than what is being painted.

Low priority stands behind everything normal; a job that has waited long enough is put among the
normal ones, at the front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from .database import insert_for, is_sqlite, stamp, store_time
from .records import Priority
from .schema import counters, jobs, key_clocks, queue_counts

PLACES_PER_MEGAPIXEL = 1024
LOW_PRIORITY = 1 << 52
"""Added to the places of low priority."""
BUCKET_PLACES = 1 << 18
"""256 megapixels of one key: a position adds up the buckets before, and counts within its own."""
NUM_STRIPES = 8
AGEING_S = 600.0
HOUSEKEEPING_BATCH = 1000


def bucket_of(place: int) -> int:
    return place // BUCKET_PLACES


def next_place(
    connection: Connection, api_key_id: str | None, priority: Priority, megapixels: float
) -> int:
    """Give a key's next job its place, and move the key's clock on by the size of the job."""
    cost = max(1, round(megapixels * PLACES_PER_MEGAPIXEL))
    values = {"api_key_id": api_key_id or "", "priority": priority, "cost": cost}
    start = connection.execute(_move_clock(connection.dialect.name), values).scalar_one() - cost
    return int(start) + (LOW_PRIORITY if priority == "low" else 0)


@cache
def _move_clock(dialect: str) -> Executable:
    now = select(counters.c.value).where(counters.c.name == bindparam("priority")).scalar_subquery()
    clock = key_clocks.c.next_place
    insert = insert_for(dialect)(key_clocks).values(
        api_key_id=bindparam("api_key_id"),
        priority=bindparam("priority"),
        next_place=now + bindparam("cost"),
    )
    return insert.on_conflict_do_update(
        index_elements=[key_clocks.c.api_key_id, key_clocks.c.priority],
        set_={"next_place": case((clock > now, clock), else_=now) + bindparam("cost")},
    ).returning(clock)


_CLOCK = select(counters.c.value).where(counters.c.name == bindparam("clock"))


def advance_clock(connection: Connection, places: Iterable[int]) -> None:
    """Let the queue's clock follow the jobs that leave it at the front."""
    latest: dict[str, int] = {}
    for place in places:
        name = "low" if place >= LOW_PRIORITY else "normal"
        latest[name] = max(latest.get(name, 0), place % LOW_PRIORITY)
    for name, place in latest.items():
        # a clock that another worker holds right now is a moment behind, which does no harm
        values = {"clock": name, "place": place}
        if connection.execute(_CLOCK_BEHIND, values).first() is not None:
            connection.execute(_SET_CLOCK, values)


_CLOCK_BEHIND = (
    select(counters.c.value)
    .where(counters.c.name == bindparam("clock"), counters.c.value < bindparam("place"))
    .with_for_update(skip_locked=True)
)
_SET_CLOCK = (
    update(counters).where(counters.c.name == bindparam("clock")).values(value=bindparam("place"))
)


def count_jobs(connection: Connection, rows: Iterable[tuple[str, int]], step: int) -> None:
    """Add `step` for each (queue, place) that joins (1) or leaves (-1)."""
    changes = Counter((queue, bucket_of(place)) for queue, place in rows)
    stripe = 0 if is_sqlite(connection) else _stripe(connection)
    statement = _count(connection.dialect.name)
    for (queue, bucket), number in sorted(changes.items()):  # in order, so that none deadlock
        values = {"queue": queue, "bucket": bucket, "stripe": stripe, "num_jobs": number * step}
        connection.execute(statement, values)


@cache
def _count(dialect: str) -> Executable:
    row = insert_for(dialect)(queue_counts)
    keys = [queue_counts.c.queue, queue_counts.c.bucket, queue_counts.c.stripe]
    return row.on_conflict_do_update(
        index_elements=keys,
        set_={"num_jobs": queue_counts.c.num_jobs + row.excluded.num_jobs},
    )


def _stripe(connection: Connection) -> int:
    known = connection.info.get("stripe")
    if known is None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        known = connection.info["stripe"] = pid % NUM_STRIPES
    return int(known)


def queue_length(connection: Connection, queue: str) -> int:
    """Return how many jobs wait for an endpoint."""
    return int(connection.execute(_LENGTH, {"queue": queue}).scalar() or 0)


def position(connection: Connection, job_id: str) -> int | None:
    """Return how many jobs are ahead; None for a job that does not wait."""
    row = connection.execute(_PLACE, {"id": job_id}).first()
    if row is None or row.queue is None:
        return None
    return position_of(connection, row.queue, row.place, row.number)


def position_of(connection: Connection, queue: str, place: int, number: int) -> int:
    """Return how many jobs of a queue stand before (place, number)."""
    bucket = bucket_of(place)
    start = bucket * BUCKET_PLACES
    values = {"queue": queue, "bucket": bucket, "start": start, "place": place, "number": number}
    return int(connection.execute(_POSITION, values).scalar_one())


_LENGTH = select(func.sum(queue_counts.c.num_jobs)).where(
    queue_counts.c.queue == bindparam("queue")
)
_PLACE = select(jobs.c.queue, jobs.c.place, jobs.c.number).where(jobs.c.id == bindparam("id"))
_BEFORE = (
    select(func.coalesce(func.sum(queue_counts.c.num_jobs), 0))
    .where(queue_counts.c.queue == bindparam("queue"), queue_counts.c.bucket < bindparam("bucket"))
    .scalar_subquery()
)
_WITHIN = (
    select(func.count())
    .select_from(jobs)
    .where(
        jobs.c.queue == bindparam("queue"),
        jobs.c.place >= bindparam("start"),
        jobs.c.place <= bindparam("place"),
        or_(jobs.c.place < bindparam("place"), jobs.c.number < bindparam("number")),
    )
    .scalar_subquery()
)
_POSITION = select(_BEFORE + _WITHIN)


def age_queue(connection: Connection, ageing_s: float = AGEING_S) -> int:
    """Put low-priority jobs that have waited for `ageing_s` among the normal ones, at the front."""
    rows = connection.execute(
        select(jobs.c.number, jobs.c.queue, jobs.c.place)
        .where(
            jobs.c.queue.is_not(None),
            # literal, so that the planner sees that the partial index serves
            text("priority = 'low'"),
            jobs.c.created_at < store_time(connection) - ageing_s,
            jobs.c.place >= LOW_PRIORITY,
        )
        .order_by(jobs.c.created_at)
        .limit(HOUSEKEEPING_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0
    changed = stamp(connection)
    front = connection.execute(_CLOCK, {"clock": "normal"}).scalar_one()
    connection.execute(
        update(jobs)
        .where(jobs.c.number.in_([row.number for row in rows]))
        .values(place=front, change_number=changed.change_number)
    )
    moved: Sequence[Any] = [(row.queue, row.place) for row in rows]
    count_jobs(connection, moved, -1)
    count_jobs(connection, [(queue, front) for queue, _ in moved], 1)
    return len(rows)


def drop_empty_buckets(connection: Connection) -> None:
    """Delete the counts of stretches in which nothing waits any more."""
    sums = connection.execute(
        select(queue_counts.c.queue, queue_counts.c.bucket)
        .group_by(queue_counts.c.queue, queue_counts.c.bucket)
        .having(func.sum(queue_counts.c.num_jobs) == 0)
        .limit(HOUSEKEEPING_BATCH)
    ).all()
    for queue, bucket in sums:
        here = and_(queue_counts.c.queue == queue, queue_counts.c.bucket == bucket)
        held = connection.execute(select(queue_counts.c.num_jobs).where(here).with_for_update())
        if sum(held.scalars()) == 0:
            connection.execute(delete(queue_counts).where(here))
