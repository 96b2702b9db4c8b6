"""Create everything."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("revoked_at", sa.Float(precision=53), nullable=True),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(precision=53), nullable=False),
        sa.Column("expires", sa.Float(precision=53), nullable=True),
        sa.Column("acl", sa.Text(), nullable=True),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("path"),
    )
    op.create_index("files_expires", "files", ["expires"], unique=False)
    op.create_index("files_job", "files", ["job_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("surface", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.String(length=64), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("num_images", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("start_deadline", sa.Float(precision=53), nullable=True),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("dead", sa.Boolean(), nullable=False),
        sa.Column("served_from", sa.Text(), nullable=True),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("lifecycle", sa.Text(), nullable=True),
        sa.Column("store_io", sa.Boolean(), nullable=False),
        sa.Column("cache_key", sa.Text(), nullable=True),
        sa.Column("prior_key", sa.Text(), nullable=True),
        sa.Column("reference_file_ids", sa.Text(), nullable=True),
        sa.Column("model_revision", sa.Text(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("last_log", sa.BigInteger(), nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("open_stage", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "jobs_cache",
        "jobs",
        ["cache_key", "finished_at"],
        unique=False,
        sqlite_where=sa.text("cache_key IS NOT NULL"),
        postgresql_where=sa.text("cache_key IS NOT NULL"),
    )
    op.create_index("jobs_change", "jobs", ["change_number"], unique=False)
    op.create_index(
        "jobs_claim",
        "jobs",
        ["open_stage", "place", "number"],
        unique=False,
        sqlite_where=sa.text("open_stage IS NOT NULL"),
        postgresql_where=sa.text("open_stage IS NOT NULL"),
    )
    op.create_index(
        "jobs_claim_of_key",
        "jobs",
        ["open_stage", "api_key_id", "place", "number"],
        unique=False,
        sqlite_where=sa.text("open_stage IS NOT NULL"),
        postgresql_where=sa.text("open_stage IS NOT NULL"),
    )
    op.create_index("jobs_endpoint_finished", "jobs", ["endpoint", "finished_at"], unique=False)
    op.create_index("jobs_finished", "jobs", ["finished_at"], unique=False)
    op.create_index(
        "jobs_lease",
        "jobs",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.create_index(
        "jobs_low",
        "jobs",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("queue IS NOT NULL AND priority = 'low'"),
        postgresql_where=sa.text("queue IS NOT NULL AND priority = 'low'"),
    )
    op.create_index(
        "jobs_queue",
        "jobs",
        ["queue", "place", "number"],
        unique=False,
        sqlite_where=sa.text("queue IS NOT NULL"),
        postgresql_where=sa.text("queue IS NOT NULL"),
    )
    op.create_index(
        "jobs_start_deadline",
        "jobs",
        ["start_deadline"],
        unique=False,
        sqlite_where=sa.text("queue IS NOT NULL AND start_deadline IS NOT NULL"),
        postgresql_where=sa.text("queue IS NOT NULL AND start_deadline IS NOT NULL"),
    )
    op.create_table(
        "key_clocks",
        sa.Column("api_key_id", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.String(length=8), nullable=False),
        sa.Column("next_place", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", "priority"),
    )
    op.create_table(
        "logs",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("logs_job", "logs", ["job_id", "number"], unique=False)
    op.create_table(
        "payloads",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("input", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "priors",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("image_index", sa.Integer(), nullable=False),
        sa.Column("prior_key", sa.Text(), nullable=True),
        sa.Column("model_revision", sa.Text(), nullable=True),
        sa.Column("grid_height", sa.Integer(), nullable=False),
        sa.Column("grid_width", sa.Integer(), nullable=False),
        sa.Column("prior_token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "image_index"),
    )
    op.create_index("priors_created", "priors", ["created_at"], unique=False)
    op.create_index(
        "priors_key", "priors", ["prior_key", "model_revision", "created_at"], unique=False
    )
    op.create_table(
        "queue_counts",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("stripe", sa.Integer(), nullable=False),
        sa.Column("num_jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "bucket", "stripe"),
    )
    op.create_table(
        "usage",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.String(length=64), nullable=True),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("megapixels", sa.Float(), nullable=False),
        sa.Column("unit_price", sa.Float(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index("usage_at", "usage", ["at"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("next_attempt", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhooks_due", "webhooks", ["next_attempt"], unique=False)
    op.create_index("webhooks_job", "webhooks", ["job_id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("stages", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    counters = sa.table("counters", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in ("change", "normal", "low")])


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_index("webhooks_job", table_name="webhooks")
    op.drop_index("webhooks_due", table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_index("usage_at", table_name="usage")
    op.drop_table("usage")
    op.drop_table("queue_counts")
    op.drop_index("priors_key", table_name="priors")
    op.drop_index("priors_created", table_name="priors")
    op.drop_table("priors")
    op.drop_table("payloads")
    op.drop_index("logs_job", table_name="logs")
    op.drop_table("logs")
    op.drop_table("key_clocks")
    op.drop_index("jobs_start_deadline", table_name="jobs")
    op.drop_index("jobs_queue", table_name="jobs")
    op.drop_index("jobs_low", table_name="jobs")
    op.drop_index("jobs_lease", table_name="jobs")
    op.drop_index("jobs_finished", table_name="jobs")
    op.drop_index("jobs_endpoint_finished", table_name="jobs")
    op.drop_index("jobs_claim_of_key", table_name="jobs")
    op.drop_index("jobs_claim", table_name="jobs")
    op.drop_index("jobs_change", table_name="jobs")
    op.drop_index("jobs_cache", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("files_job", table_name="files")
    op.drop_index("files_expires", table_name="files")
    op.drop_table("files")
    op.drop_table("counters")
    op.drop_table("api_keys")
