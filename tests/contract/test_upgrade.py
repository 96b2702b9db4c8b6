"""A database of the first release, with jobs at every point of their life, goes on in this one."""

import json
import time

import pytest
from sqlalchemy import text

from glmimage.jobs import JobStore, LeaseLost
from glmimage.jobs.database import is_sqlite
from glmimage.jobs.migrations import HEAD, migrate

from .test_migrations import forget_tables, version

pytestmark = pytest.mark.anyio
FIRST = "0001"
ENDPOINT = "fal-ai/glm-image"
NUM_WAITING = 600
BUCKET = 1 << 18
PLACES = 1024

# rows as the first release wrote them; they do not follow the schema of today
JOB = {
    "endpoint": ENDPOINT,
    "surface": "queue",
    "state": "queued",
    "stage": "prior",
    "priority": "normal",
    "num_images": 1,
    "width": 1024,
    "height": 1024,
    "seed": 7,
    "attempt": 0,
    "max_attempts": 3,
    "fence": 0,
    "cancel_requested": False,
    "dead": False,
    "store_io": True,
    "progress": 0.0,
    "last_log": 0,
    "change_number": 1,
    "reference_file_ids": "[]",
    "queue": ENDPOINT,
    "open_stage": "prior",
}
RUNNING = {"state": "running", "queue": None, "open_stage": None, "attempt": 1, "fence": 1}
OTHERS = {
    "held": RUNNING | {"worker_id": "w", "started_at": 1.0},
    "between": RUNNING | {"stage": "decode", "open_stage": "decode", "model_revision": "r"},
    "done": RUNNING | {"state": "done", "status": 200, "finished_at": 2.0, "progress": 1.0},
    "dead": RUNNING | {"state": "failed", "status": 500, "dead": True, "finished_at": 3.0},
}


def insert(connection, table, **values):
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def fill_first(connection):
    """Make the tables of the first release, with what its users may have had in them."""
    forget_tables(connection)
    migrate(connection, FIRST)
    now = time.time()
    for number in range(NUM_WAITING):
        values = JOB | {"id": f"waiting-{number}", "created_at": now, "place": number * PLACES}
        insert(connection, "jobs", **values)
        insert(connection, "payloads", job_id=values["id"], input=json.dumps({"n": number}))
    for name, changes in OTHERS.items():
        lease = {"lease_until": now + 3600} if name == "held" else {}
        insert(
            connection,
            "jobs",
            **JOB | {"id": name, "created_at": now, "place": 0} | changes,
            **lease,
        )
        insert(connection, "payloads", job_id=name, input="{}", result='{"images":[]}')
    tokens = b"\x01\0\0\0\x02\0\0\0"
    insert(
        connection,
        "priors",
        job_id="between",
        image_index=0,
        model_revision="r",
        grid_height=1,
        grid_width=2,
        prior_token_ids=tokens,
        created_at=now,
    )
    # PostgreSQL's processes counted in rows of their own
    for stripe, step in ((0, 1),) if is_sqlite(connection) else ((0, 3), (5, -2)):
        for bucket in range(NUM_WAITING * PLACES // BUCKET + 1):
            left = min(BUCKET // PLACES, NUM_WAITING - bucket * BUCKET // PLACES)
            values = {"bucket": bucket, "stripe": stripe, "num_jobs": left * step}
            insert(connection, "queue_counts", queue=ENDPOINT, **values)
    next_place = NUM_WAITING * PLACES
    insert(connection, "key_clocks", api_key_id="", priority="normal", next_place=next_place)
    insert(connection, "usage", job_id="done", endpoint=ENDPOINT, at=2.0, megapixels=1.0,
           unit_price=0.15, cost=0.15, duration_s=1.0)  # fmt: skip
    insert(connection, "webhooks", id="h", job_id="done", url="http://h", state="pending",
           attempts=1, created_at=2.0, next_attempt=2.0)  # fmt: skip
    insert(connection, "webhooks", id="of none", job_id="purged", url="http://h", state="failed",
           attempts=9, created_at=1.0)  # fmt: skip


async def test_the_first_release_goes_on(database_url, store, new_job):
    await store._db.write(fill_first)
    assert await store._db.read(version) == FIRST
    await store.close()
    async with await JobStore.open(database_url) as now:
        assert await now._db.read(version) == HEAD
        # nothing waits at another place than before
        for number in (0, 255, 256, NUM_WAITING - 1):
            assert await now.position(f"waiting-{number}") == number
        assert await now.queue_length(ENDPOINT) == NUM_WAITING
        _, position = await now.enqueue(new_job())
        assert position == NUM_WAITING
        # what was held is held, what had ended has ended, what lay between goes on
        held = await now.get("held")
        assert (held.state, held.worker_id, held.trace_context) == ("running", "w", None)
        (claim,) = await now.claim("w2", ["decode"], 5, 60, "r")
        assert (claim.job.id, claim.priors[0].prior_token_ids) == ("between", (1, 2))
        await now.finish(claim, {"images": []})
        assert [job.id for job in await now.list_jobs("dead")] == ["dead"]
        assert (await now.retry("dead")).state == "queued"
        assert [row.megapixels for row in await now.usage()] == [1.0]
        assert [hook.id for hook in await now.due_webhooks()] == ["h"]
        assert await now.list_webhooks("purged") == []
        claims = await now.claim("w2", ["prior"], 2, 60, "r")
        assert [claim.job.id for claim in claims] == ["waiting-0", "dead"]
        assert claims[0].job.input == {"n": 0}
        assert await now.queue_length(ENDPOINT) == NUM_WAITING
        await now.recover_leases(time.time() + 7200)
        with pytest.raises(LeaseLost):
            await now.finish(claims[0], {})
        assert (await now.get("held")).state == "queued"
