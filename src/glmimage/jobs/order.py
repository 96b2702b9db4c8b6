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
    BigInteger,
    Connection,
    Table,
    Text,
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
from .schema import (
    BUCKETS_TOGETHER,
    LOW_PRIORITY,
    counters,
    jobs,
    key_clocks,
    queue_counts,
    queue_totals,
)
from .statement import Statement

PLACES_PER_MEGAPIXEL = 1024
BUCKET_PLACES = 1 << 18
"""256 megapixels of one key: a position adds up the buckets before, and counts within its own."""
STRIPE_LOCK = 0x676C6D02
NUM_STRIPES = 1024
AGEING_S = 600.0
HOUSEKEEPING_BATCH = 1000


def bucket_of(place: int) -> int:
    return place // BUCKET_PLACES


def cost_of(megapixels: float) -> int:
    """Return how many places a job takes up."""
    return max(1, round(megapixels * PLACES_PER_MEGAPIXEL))


def next_place(
    connection: Connection, api_key_id: str | None, priority: Priority, megapixels: float
) -> int:
    """Give a key's next job its place, and move the key's clock on by the size of the job."""
    cost = cost_of(megapixels)
    values = {"api_key_id": api_key_id or "", "priority": priority, "cost": cost}
    start = _move_clock(connection.dialect.name).scalar(connection, values) - cost
    return int(start) + (LOW_PRIORITY if priority == "low" else 0)


def front(connection: Connection, priority: Priority) -> int:
    """Return the place that the queue has come to."""
    place = _CLOCK.scalar(connection, {"clock": priority})
    return int(place) + (LOW_PRIORITY if priority == "low" else 0)


@cache
def _move_clock(dialect: str) -> Statement:
    now = select(counters.c.value).where(counters.c.name == bindparam("priority")).scalar_subquery()
    clock = key_clocks.c.next_place
    insert = insert_for(dialect)(key_clocks).values(
        api_key_id=bindparam("api_key_id"),
        priority=bindparam("priority"),
        next_place=now + bindparam("cost"),
    )
    moved = insert.on_conflict_do_update(
        index_elements=[key_clocks.c.api_key_id, key_clocks.c.priority],
        set_={"next_place": case((clock > now, clock), else_=now) + bindparam("cost")},
    ).returning(clock)
    return Statement(moved)


_CLOCK = Statement(select(counters.c.value).where(counters.c.name == bindparam("clock")))


def advance_clock(connection: Connection, places: Iterable[int]) -> None:
    """Let the queue's clock follow the jobs that leave it at the front."""
    latest: dict[str, int] = {}
    for place in places:
        name = "low" if place >= LOW_PRIORITY else "normal"
        latest[name] = max(latest.get(name, 0), place % LOW_PRIORITY)
    for name, place in latest.items():
        # a clock that another worker holds right now is a moment behind, which does no harm
        values = {"clock": name, "place": place}
        if _CLOCK_BEHIND.first(connection, values) is not None:
            _SET_CLOCK.all(connection, values)


_CLOCK_BEHIND = Statement(
    select(counters.c.value)
    .where(counters.c.name == bindparam("clock"), counters.c.value < bindparam("place"))
    .with_for_update(skip_locked=True)
)
_SET_CLOCK = Statement(
    update(counters).where(counters.c.name == bindparam("clock")).values(value=bindparam("place"))
)


def count_jobs(connection: Connection, rows: Iterable[tuple[str, int]], step: int) -> None:
    """Add `step` for each (queue, place) that joins (1) or leaves (-1)."""
    changes = Counter((queue, bucket_of(place)) for queue, place in rows)
    stripe = stripe_of(connection)
    statement = _count(connection.dialect.name)
    for (queue, bucket), number in sorted(changes.items()):
        values = {"queue": queue, "bucket": bucket, "stripe": stripe, "num_jobs": number * step}
        statement.all(connection, values)


@cache
def _count(dialect: str) -> Statement:
    row = insert_for(dialect)(queue_counts)
    keys = [queue_counts.c.queue, queue_counts.c.bucket, queue_counts.c.stripe]
    counted = row.on_conflict_do_update(
        index_elements=keys,
        set_={"num_jobs": queue_counts.c.num_jobs + row.excluded.num_jobs},
    )
    return Statement(counted)


def stripe_of(connection: Connection) -> int:
    """Return the number under which this connection counts, which no other one has meanwhile."""
    if is_sqlite(connection):
        return 0
    known = connection.info.get("stripe")
    if known is None:
        numbers = {"lock": STRIPE_LOCK, "last": NUM_STRIPES - 1}
        found = connection.execute(_FREE_STRIPE, numbers).scalar()
        known = connection.info["stripe"] = 0 if found is None else found
    return int(known)


_FREE_STRIPE = text(
    "SELECT number FROM generate_series(0, :last) AS number "
    "WHERE pg_try_advisory_lock(:lock, number) LIMIT 1"
)


def queue_length(connection: Connection, queue: str) -> int:
    """Return how many jobs wait for an endpoint."""
    return int(_LENGTH.scalar(connection, {"queue": queue}) or 0)


def position(connection: Connection, job_id: str) -> int | None:
    """Return how many jobs are ahead; None for a job that does not wait."""
    row = _PLACE.first(connection, {"id": job_id})
    if row is None or row[0] is None:
        return None
    queue, place, number = row
    return position_of(connection, queue, place, number)


def position_of(connection: Connection, queue: str, place: int, number: int) -> int:
    """Return how many jobs of a queue stand before (place, number)."""
    values = {"queue": queue, "place": place, "number": number, "bucket_places": BUCKET_PLACES}
    return int(_POSITION.scalar(connection, values))


def _sum_of(table: Table, queue: Any, *conditions: Any) -> Any:
    column = func.coalesce(func.sum(table.c.num_jobs), 0)
    return select(column).where(table.c.queue == queue, *conditions).scalar_subquery()


def jobs_before(queue: Any, place: Any, number: Any) -> Any:
    """Add up the long stretches before a place, then the short ones, and count within the last."""
    bucket_places = bindparam("bucket_places", type_=BigInteger())
    bucket = place // bucket_places
    total = bucket // BUCKETS_TOGETHER
    long = _sum_of(queue_totals, queue, queue_totals.c.bucket < total)
    first = queue_counts.c.bucket >= total * BUCKETS_TOGETHER
    short = _sum_of(queue_counts, queue, first, queue_counts.c.bucket < bucket)
    within = (
        select(func.count())
        .select_from(jobs)
        .where(
            jobs.c.queue == queue,
            jobs.c.place >= bucket * bucket_places,
            jobs.c.place <= place,
            or_(jobs.c.place < place, jobs.c.number < number),
        )
        .scalar_subquery()
    )
    return long + short + within


LENGTH = select(_sum_of(queue_totals, bindparam("queue")).label("length"))
_LENGTH = Statement(LENGTH)
_PLACE = Statement(
    select(jobs.c.queue, jobs.c.place, jobs.c.number).where(jobs.c.id == bindparam("id"))
)
_POSITION = Statement(
    select(
        jobs_before(
            bindparam("queue", type_=Text()),
            bindparam("place", type_=BigInteger()),
            bindparam("number", type_=BigInteger()),
        )
    )
)


def age_queue(connection: Connection, ageing_s: float = AGEING_S) -> int:
    """Put low-priority jobs that have waited for `ageing_s` among the normal ones, at the front."""
    rows = connection.execute(
        select(jobs.c.number, jobs.c.queue, jobs.c.place)
        .where(
            jobs.c.queue.is_not(None),
            # literal, so that the planner sees that the partial index serves
            text(f"priority = 'low' AND place >= {LOW_PRIORITY}"),
            jobs.c.created_at < store_time(connection) - ageing_s,
        )
        .order_by(jobs.c.created_at)
        .limit(HOUSEKEEPING_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0
    changed = stamp(connection)
    here = front(connection, "normal")
    connection.execute(
        update(jobs)
        .where(jobs.c.number.in_([row.number for row in rows]))
        .values(place=here, change_number=changed.change_number)
    )
    moved: Sequence[Any] = [(row.queue, row.place) for row in rows]
    count_jobs(connection, moved, -1)
    count_jobs(connection, [(queue, here) for queue, _ in moved], 1)
    return len(rows)


def drop_empty_buckets(connection: Connection) -> None:
    """Delete the counts of stretches in which nothing waits any more."""
    for table in (queue_counts, queue_totals):
        buckets = connection.execute(
            select(table.c.queue, table.c.bucket)
            .group_by(table.c.queue, table.c.bucket)
            .having(func.sum(table.c.num_jobs) == 0)
            .limit(HOUSEKEEPING_BATCH)
        ).all()
        for queue, bucket in buckets:
            here = and_(table.c.queue == queue, table.c.bucket == bucket)
            rows = connection.execute(
                select(table.c.stripe, table.c.num_jobs)
                .where(here)
                .with_for_update(skip_locked=True)  # its writer may wait for one we hold
            ).all()
            # any rows that sum up to nothing may go, whoever adds another one meanwhile
            if rows and sum(row.num_jobs for row in rows) == 0:
                stripes = [row.stripe for row in rows]
                connection.execute(delete(table).where(here, table.c.stripe.in_(stripes)))
