"""Keep totals of long stretches of a queue; find the jobs of a model revision by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# 256 is BUCKETS_TOGETHER of the schema; a change of it needs a migration
TOTALS = """
INSERT INTO queue_totals (queue, bucket, stripe, num_jobs)
SELECT queue, bucket / 256, stripe, sum(num_jobs) FROM queue_counts GROUP BY 1, 2, 3
"""
ADD = """
INSERT INTO queue_totals (queue, bucket, stripe, num_jobs)
VALUES ({row}.queue, {row}.bucket / 256, {row}.stripe, {num_jobs})
ON CONFLICT (queue, bucket, stripe) DO UPDATE SET num_jobs = queue_totals.num_jobs + {num_jobs};
"""
CHANGES = {
    "INSERT": ADD.format(row="NEW", num_jobs="NEW.num_jobs"),
    "UPDATE": ADD.format(row="NEW", num_jobs="(NEW.num_jobs - OLD.num_jobs)"),
}  # what is deleted sums up to nothing
# The front of a queue is rewritten all the time: PostgreSQL's own rule, a fifth of the table,
# would leave a claim to step over hundreds of thousands of dead rows.
VACUUM = {
    "jobs": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000",
    "queue_counts": "fillfactor = 50, autovacuum_vacuum_threshold = 500",
    "queue_totals": "fillfactor = 50, autovacuum_vacuum_threshold = 500",
    "key_clocks": "fillfactor = 50, autovacuum_vacuum_threshold = 500",
    "counters": "fillfactor = 50, autovacuum_vacuum_threshold = 500",
}


def upgrade() -> None:
    op.create_table(
        "queue_totals",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("stripe", sa.Integer(), nullable=False),
        sa.Column("num_jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "bucket", "stripe"),
    )
    where = sa.text("open_stage IS NOT NULL AND model_revision IS NOT NULL")
    op.create_index(
        "jobs_claim_of_revision",
        "jobs",
        ["open_stage", "model_revision", "place", "number"],
        unique=False,
        sqlite_where=where,
        postgresql_where=where,
    )
    dead = sa.text("dead")
    op.create_index(
        "jobs_dead", "jobs", ["number"], unique=False, sqlite_where=dead, postgresql_where=dead
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    for event, change in CHANGES.items():
        name = f"queue_totals_{event.lower()}"
        if sqlite:
            op.execute(f"CREATE TRIGGER {name} AFTER {event} ON queue_counts BEGIN {change} END")
        else:
            op.execute(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {change} RETURN NULL; END $$"
            )
            op.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON queue_counts "
                f"FOR EACH ROW EXECUTE FUNCTION {name}()"
            )
    op.execute(TOTALS)
    if not sqlite:
        for table, settings in VACUUM.items():
            op.execute(f"ALTER TABLE {table} SET ({settings})")
