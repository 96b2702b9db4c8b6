"""The tables, the same on SQLite and PostgreSQL. A change here needs a migration beside it.

Queue and claim each read one index that holds only the rows that matter, because two columns of
`jobs` are null everywhere else: `queue` is the endpoint while a job waits for a worker, and
`open_stage` is the stage that may be claimed now.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)


class Document(TypeDecorator[Any]):
    """JSON as ASCII text: neither NUL nor half a surrogate pair can upset a database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Words(TypeDecorator[str]):
    """Text from outside, without what PostgreSQL cannot store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace("\0", "").encode("utf-8", "replace").decode()


# SQLite numbers its rows only when the primary key is an INTEGER
Number = BigInteger().with_variant(Integer, "sqlite")
Time = Float(53)
Id = String(64)

LOW_PRIORITY = 1 << 52
"""Added to the places of low priority; what has aged stands below. It is part of an index."""
_LOW = text(f"queue IS NOT NULL AND priority = 'low' AND place >= {LOW_PRIORITY}")

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("id", Id, nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("surface", Text, nullable=False),
    Column("api_key_id", Id),
    Column("state", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("num_images", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("start_deadline", Time),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("worker_id", Id),
    Column("lease_until", Time),
    Column("cancel_requested", Boolean, nullable=False),
    Column("status", Integer),
    Column("error", Words),
    Column("error_type", Text),
    Column("last_error", Words),
    Column("dead", Boolean, nullable=False),
    Column("served_from", Text),
    Column("webhook_url", Words),
    Column("lifecycle", Document),
    Column("store_io", Boolean, nullable=False),
    Column("cache_key", Text),
    Column("prior_key", Text),
    Column("reference_file_ids", Document),
    Column("model_revision", Text),
    Column("progress", Float, nullable=False),
    Column("last_log", BigInteger, nullable=False),
    Column("change_number", BigInteger, nullable=False),
    Column("queue", Text),
    Column("open_stage", Text),
    Column("trace_context", Text),
    Index(
        "jobs_claim",
        "open_stage",
        "place",
        "number",
        sqlite_where=text("open_stage IS NOT NULL"),
        postgresql_where=text("open_stage IS NOT NULL"),
    ),
    Index(
        "jobs_claim_of_key",
        "open_stage",
        "api_key_id",
        "place",
        "number",
        sqlite_where=text("open_stage IS NOT NULL"),
        postgresql_where=text("open_stage IS NOT NULL"),
    ),
    Index(
        "jobs_claim_of_revision",
        "open_stage",
        "model_revision",
        "place",
        "number",
        sqlite_where=text("open_stage IS NOT NULL AND model_revision IS NOT NULL"),
        postgresql_where=text("open_stage IS NOT NULL AND model_revision IS NOT NULL"),
    ),
    Index(
        "jobs_queue",
        "queue",
        "place",
        "number",
        sqlite_where=text("queue IS NOT NULL"),
        postgresql_where=text("queue IS NOT NULL"),
    ),
    Index(
        "jobs_low",
        "created_at",
        sqlite_where=_LOW,
        postgresql_where=text(
            f"queue IS NOT NULL AND priority = 'low' AND place >= {LOW_PRIORITY}"
        ),
    ),
    Index(
        "jobs_start_deadline",
        "start_deadline",
        sqlite_where=text("queue IS NOT NULL AND start_deadline IS NOT NULL"),
        postgresql_where=text("queue IS NOT NULL AND start_deadline IS NOT NULL"),
    ),
    Index(
        "jobs_lease",
        "lease_until",
        sqlite_where=text("lease_until IS NOT NULL"),
        postgresql_where=text("lease_until IS NOT NULL"),
    ),
    Index("jobs_dead", "number", sqlite_where=text("dead"), postgresql_where=text("dead")),
    Index("jobs_change", "change_number"),
    Index("jobs_endpoint_finished", "endpoint", "finished_at"),
    Index("jobs_finished", "finished_at"),
    Index(
        "jobs_unstored",
        "finished_at",
        sqlite_where=text("NOT store_io"),
        postgresql_where=text("NOT store_io"),
    ),
    Index(
        "jobs_cache",
        "cache_key",
        "finished_at",
        sqlite_where=text("cache_key IS NOT NULL"),
        postgresql_where=text("cache_key IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

# What is large lives apart, so that the queue stays small and can be read without it.
payloads = Table(
    "payloads",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("input", Document),
    Column("result", Document),
)

# prior_token_ids: uint32, little-endian, row by row
priors = Table(
    "priors",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("image_index", Integer, primary_key=True),
    Column("prior_key", Text),
    Column("model_revision", Text),
    Column("grid_height", Integer, nullable=False),
    Column("grid_width", Integer, nullable=False),
    Column("prior_token_ids", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
    Index("priors_key", "prior_key", "model_revision", "created_at"),
    Index("priors_created", "created_at"),
)

logs = Table(
    "logs",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("job_id", Id, nullable=False),
    Column("at", Time, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Words, nullable=False),
    Index("logs_job", "job_id", "number"),
    sqlite_autoincrement=True,
)

# How many jobs wait in each stretch of a queue, so that a position is a short sum. `stripe` keeps
# PostgreSQL's sessions from waiting for each other's rows; single rows may well be negative.
queue_counts = Table(
    "queue_counts",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("stripe", Integer, primary_key=True),
    Column("num_jobs", BigInteger, nullable=False),
)

# The sums of BUCKETS_TOGETHER buckets of `queue_counts`, kept by triggers (see the migrations), so
# that a position in a queue of a million is a sum of a few hundred rows.
BUCKETS_TOGETHER = 256
queue_totals = Table(
    "queue_totals",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("stripe", Integer, primary_key=True),
    Column("num_jobs", BigInteger, nullable=False),
)

# Where the next job of a key will stand in either priority, for fairness across keys; '' stands
# for work without a key.
key_clocks = Table(
    "key_clocks",
    metadata,
    Column("api_key_id", Id, primary_key=True),
    Column("priority", String(8), primary_key=True),
    Column("next_place", BigInteger, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", Words, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("revoked_at", Time),
    Column("concurrency", Integer),
    Column("rate", Float),
)

storage_settings = Table(
    "storage_settings",
    metadata,
    Column("owner", Id, primary_key=True),  # a key, or "" where there are none
    Column("lifecycle", Document, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("path", Words, nullable=False, unique=True),
    Column("content_type", Words, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("name", Words, nullable=False),
    Column("created", Time, nullable=False),
    Column("expires", Time),
    Column("acl", Document),
    Column("owner", Id),
    Column("kind", Text, nullable=False),
    Column("job_id", Id),
    Index("files_job", "job_id"),
    Index("files_expires", "expires"),
    Index(
        "files_awaited",
        "created",
        sqlite_where=text("kind = 'awaited'"),
        postgresql_where=text("kind = 'awaited'"),
    ),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, nullable=False),
    Column("url", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("next_attempt", Time),
    Column("finished_at", Time),
    Column("status", Integer),
    Column("error", Words),
    Index("webhooks_due", "next_attempt"),
    Index("webhooks_job", "job_id"),
)

usage = Table(
    "usage",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("api_key_id", Id),
    Column("at", Time, nullable=False),
    Column("megapixels", Float, nullable=False),
    Column("unit_price", Float, nullable=False),
    Column("cost", Float, nullable=False),
    Column("duration_s", Float, nullable=False),
    Index("usage_at", "at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("stages", Document, nullable=False),
    Column("model", Words, nullable=False),
    Column("model_revision", Words, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("seen_at", Time, nullable=False),
    Column("info", Document, nullable=False),
)
