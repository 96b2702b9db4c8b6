"""What is asked all the time is answered from an index, however long the queue is."""

import pytest
from sqlalchemy import event, text

from glmimage.jobs import endings, feed, leases, order, queue
from glmimage.jobs.database import is_sqlite

pytestmark = pytest.mark.anyio
NUM_JOBS = 20_000

FILL_SQLITE = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {0})"
FILL_POSTGRES = "WITH n AS (SELECT generate_series(1, {0}) AS i)"
FILL = """
INSERT INTO jobs (id, endpoint, surface, state, stage, priority, place, num_images, width, height,
    seed, created_at, start_deadline, attempt, max_attempts, fence, cancel_requested, dead,
    store_io, progress, last_log, change_number, queue, open_stage, lease_until, finished_at)
{numbers}
SELECT 'job' || i, 'e', 'queue', CASE WHEN i % 2 = 0 THEN 'queued' ELSE 'done' END, 'prior',
    CASE WHEN i % 10 = 0 THEN 'low' ELSE 'normal' END, i, 1, 512, 512, 0, i, i, 0, 3, 0, {no}, {no},
    {yes}, 0, 0, i, CASE WHEN i % 2 = 0 THEN 'e' END, CASE WHEN i % 2 = 0 THEN 'prior' END,
    CASE WHEN i % 1000 = 1 THEN i END, CASE WHEN i % 2 = 1 THEN i END
FROM n
"""

CASES = {
    "claim": (lambda c: queue._candidates(c, "prior", 4, 0.0, "r", {}), "jobs_claim"),
    "work": (lambda c: queue.has_work(c, ["prior"]), "jobs_claim"),
    "position": (lambda c: order.position_of(c, "e", 15_000, 15_000), "jobs_queue"),
    "leases": (lambda c: endings.recover_leases(c, 0.0), "jobs_lease"),
    "cancelled": (lambda c: leases.cancelled_of(c, "w"), "jobs_lease"),
    "deadlines": (lambda c: endings.expire_starts(c, 0.0), "jobs_start_deadline"),
    "ageing": (lambda c: order.age_queue(c, 1e12), "jobs_low"),
    "changes": (lambda c: feed.changes_since(c, 10**9), "jobs_change"),
}


def fill(connection):
    sqlite = is_sqlite(connection)
    numbers = (FILL_SQLITE if sqlite else FILL_POSTGRES).format(NUM_JOBS)
    yes, no = ("1", "0") if sqlite else ("true", "false")
    connection.execute(text(FILL.format(numbers=numbers, yes=yes, no=no)))


def analyze(connection):
    connection.execute(text("ANALYZE"))


def plans_of(connection, call):
    """Run a call and return the plan of each of its queries on `jobs`."""
    asked = []
    listener = lambda *a: asked.append((a[2], a[3]))  # noqa: E731
    event.listen(connection, "before_cursor_execute", listener)
    try:
        call(connection)
    finally:
        event.remove(connection, "before_cursor_execute", listener)
    explain = "EXPLAIN QUERY PLAN " if is_sqlite(connection) else "EXPLAIN "
    plans = []
    for statement, parameters in asked:
        if statement.lstrip().startswith("SELECT") and "FROM jobs" in statement:
            rows = connection.exec_driver_sql(explain + statement, parameters)
            plans.append("\n".join(str(row[-1]) for row in rows))
    return plans


async def test_every_frequent_query_reads_its_index(store):
    await store._db.write(fill)
    await store._db.write(analyze)
    for name, (call, index) in CASES.items():
        plans = await store._db.write(plans_of, call)
        assert plans, name
        for plan in plans:
            assert index in plan, f"{name}:\n{plan}"
            for scan in ("SCAN jobs", "Seq Scan on jobs", "TEMP B-TREE", "Sort"):
                assert scan not in plan, f"{name}:\n{plan}"
