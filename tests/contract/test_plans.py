"""What is asked all the time is answered from an index, also with a quarter of a million jobs."""

import re

import pytest
from sqlalchemy import event, text

from glmimage.jobs import endings, feed, leases, listing, order, queue, upkeep
from glmimage.jobs.database import is_sqlite, newest_change
from glmimage.jobs.order import BUCKET_PLACES
from glmimage.jobs.schema import jobs
from glmimage.jobs.statement import Statement

pytestmark = pytest.mark.anyio
NUM_JOBS = 250_000
PLACE = 3 * NUM_JOBS // 4 * 1024

NUMBERS_SQLITE = f"""
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {NUM_JOBS})"""
NUMBERS_POSTGRES = f"WITH n AS (SELECT generate_series(1, {NUM_JOBS}) AS i)"
# nine of ten wait, one in a hundred for the decode stage; the rest has ended, one is leased
FILL = """
INSERT INTO jobs (id, endpoint, surface, state, stage, priority, place, num_images, width, height,
    seed, created_at, start_deadline, attempt, max_attempts, fence, cancel_requested, dead,
    store_io, progress, last_log, change_number, queue, open_stage, lease_until, finished_at,
    model_revision)
{numbers}
SELECT 'job' || i, 'e', 'queue', CASE WHEN i % 10 > 0 THEN 'queued' ELSE 'done' END,
    CASE WHEN i % 100 = 1 THEN 'decode' ELSE 'prior' END,
    CASE WHEN i % 10 = 1 THEN 'low' ELSE 'normal' END, i * 1024, 1, 512, 512, 0, i,
    CASE WHEN i % 3 = 0 THEN 1e11 + i END, 0, 3, 0, {no}, {no}, {yes}, 0, 0, i,
    CASE WHEN i % 10 > 0 THEN 'e' END,
    CASE WHEN i % 100 = 1 THEN 'decode' WHEN i % 10 > 0 THEN 'prior' END,
    CASE WHEN i % 10000 = 0 THEN i END, CASE WHEN i % 10 = 0 THEN i END,
    CASE WHEN i % 100 = 1 THEN 'r' || i % 1000 END
FROM n
"""
COUNT = f"""
INSERT INTO queue_counts SELECT queue, place / {BUCKET_PLACES}, 0, count(*) FROM jobs
WHERE queue IS NOT NULL GROUP BY 1, 2
"""

OF_JOBS = re.compile(r"(FROM|UPDATE) jobs\b")
CASES = {
    "work": (lambda c: queue.has_work(c, ["prior"]), "jobs_claim"),
    "work of a revision": (lambda c: queue.has_work(c, ["decode"], "r1"), "jobs_claim_of_revision"),
    "candidates": (lambda c: queue.choose(c, ["prior"], 4, "r", {}), "jobs_claim"),
    "candidates of a revision": (
        lambda c: queue.choose(c, ["decode"], 4, "r1", {}),
        "jobs_claim_of_revision",
    ),
    "position": (lambda c: order.position_of(c, "e", PLACE, 1), "jobs_queue"),
    "leases": (lambda c: endings.recover_leases(c, 0.0), "jobs_lease"),
    "cancelled": (lambda c: leases.cancelled_of(c, "w"), "jobs_lease"),
    "held by a worker": (lambda c: leases.hand_back_others(c, "w", []), "jobs_lease"),
    "deadlines": (lambda c: endings.expire_starts(c, 0.0), "jobs_start_deadline"),
    "lost revisions": (upkeep._revisions_that_wait, "jobs_claim_of_revision"),
    "ageing": (lambda c: order.age_queue(c, 1e12), "jobs_low"),
    "changes": (lambda c: feed.changes_since(c, newest_change(c)), "jobs_change"),
    "live, waiting": (lambda c: next(feed.waiting(c, jobs.c.queue)), "jobs_queue"),
    "live, between": (
        lambda c: next(feed.waiting(c, jobs.c.open_stage, jobs.c.queue.is_(None))),
        "jobs_claim",
    ),
    "live, leased": (lambda c: next(feed.leased(c)), "jobs_lease"),
    "list of the waiting": (lambda c: listing.list_jobs(c, "queued"), "jobs_queue"),
    "list of the dead": (lambda c: listing.list_jobs(c, "dead"), "jobs_dead"),
}

BY_NUMBER = ("jobs_claim", "USING INTEGER PRIMARY KEY")


def fill(connection):
    """Make the jobs inside the database; its indexes are built afterwards, which is quicker."""
    sqlite = is_sqlite(connection)
    numbers = NUMBERS_SQLITE if sqlite else NUMBERS_POSTGRES
    yes, no = ("1", "0") if sqlite else ("true", "false")
    for index in jobs.indexes:
        index.drop(connection)
    connection.execute(text(FILL.format(numbers=numbers, yes=yes, no=no)))
    for index in jobs.indexes:
        index.create(connection)
    connection.execute(text(COUNT))


def empty(connection):
    for table in ("jobs", "payloads", "queue_counts", "queue_totals"):
        connection.execute(text(f"DELETE FROM {table}"))


def analyze(connection):
    connection.execute(text("ANALYZE"))


def plans_of(connection, call):
    """Run a call and return the plan of each of its statements that reads jobs.

    These are the plans that are really used: PostgreSQL keeps one for all values of a statement
    (plan_cache_mode), and SQLite makes its own before it is told them.
    """
    asked = []
    if not is_sqlite(connection):
        event.listen(connection, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        call(connection)
        return [plan_kept(connection, *each) for each in list(asked) if OF_JOBS.search(each[0])]
    raw = connection.connection.dbapi_connection
    raw.set_trace_callback(lambda statement: asked.append((statement, ())))  # with its values
    with pytest.MonkeyPatch.context() as patch:
        run = Statement.all

        def recorded(self, connection, values):
            rows = run(self, connection, values)
            compiled = self.compiled(connection, values)
            asked.append((compiled.text, [None] * len(compiled.binds)))
            return rows

        patch.setattr(Statement, "all", recorded)
        call(connection)
    raw.set_trace_callback(None)
    return [
        "\n".join(row[-1] for row in raw.execute("EXPLAIN QUERY PLAN " + statement, values))
        for statement, values in asked
        if OF_JOBS.search(statement)
    ]


def plan_kept(connection, statement, values):
    """Return PostgreSQL's plan for any values, under the settings of our sessions."""
    connection.exec_driver_sql(f"PREPARE kept AS {statement}")
    arguments = f"({', '.join(['NULL'] * len(values))})" if values else ""
    rows = connection.exec_driver_sql(f"EXPLAIN EXECUTE kept{arguments}").all()
    connection.exec_driver_sql("DEALLOCATE kept")
    return "\n".join(row[0] for row in rows)


def check(name, plans, *indexes):
    assert plans, name
    for plan in plans:
        assert any(index in plan for index in indexes), f"{name}:\n{plan}"
        # the whole table read, or what was found put in order afterwards
        for scan in (r"SCAN jobs$", "TEMP B-TREE", "Seq Scan on jobs", r"Sort Key: jobs\."):
            assert not re.search(scan, plan, re.MULTILINE), f"{name}:\n{plan}"


async def check_all(store, new_job):
    for name, (call, index) in CASES.items():
        check(name, await store._db.write(plans_of, call), index)
    for unstored, index in ((False, "jobs_finished"), (True, "jobs_unstored")):
        results = lambda c, u=unstored: upkeep.results_due(c, 0.0, 1.0, only_unstored=u)  # noqa: E731
        check(f"old results, {unstored=}", await store._db.write(plans_of, results), index)
    await check_steps(store, new_job)


async def check_steps(store, new_job):
    """What is really run, in one statement or several."""
    steps = store._db.steps
    for _ in range(5):
        await store.enqueue(new_job(endpoint="e"))
    enqueue = lambda c: steps.enqueue(c, new_job(endpoint="e"))  # noqa: E731
    check("enqueue", await store._db.write(plans_of, enqueue), "jobs_queue")
    check("claim", await store._db.write(plans_of, claim_of(store)), *BY_NUMBER)
    (mine,) = await store.claim("w", ["prior"], 1, 60.0)
    finish = lambda c: steps.finish(c, mine, {}, [], None)  # noqa: E731
    by_id = ("jobs_id_key", "sqlite_autoindex_jobs_1", "USING INTEGER PRIMARY KEY")
    check("finish", await store._db.write(plans_of, finish), *by_id)


def claim_of(store):
    return lambda c: store._db.steps.claim(c, "w", ["prior", "decode"], 4, 60.0, "r1")


async def test_a_long_queue_is_never_read_through(store, new_job):
    # a plan may be kept from the time when there was nothing yet, or little
    await check_all(store, new_job)
    for number in (1, 2, 3):  # the rest has ended
        await store._db.write(empty)
        added = [(await store.enqueue(new_job(endpoint="e")))[0] for _ in range(60)]
        for job in added[number:]:
            await store.cancel(job.id)
        await store._db.write(analyze)
        check("claim", await store._db.write(plans_of, claim_of(store)), *BY_NUMBER)
    await store._db.write(empty)
    await store._db.write(fill)
    await store._db.write(analyze)
    await check_all(store, new_job)
    waiting = NUM_JOBS // 10 * 9 + 6 - 5  # six have come in, five have been claimed
    assert await store.queue_length("e") == waiting
    assert await store.position(f"job{NUM_JOBS - 1}") == waiting - 1
