"""Let upkeep read what is due and no history; forget the webhooks of jobs that are gone."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# 1 << 52 is LOW_PRIORITY of the schema; a change of it needs a migration
LOW = "queue IS NOT NULL AND priority = 'low' AND place >= 4503599627370496"
NAMES = {"jobs_low": ("created_at", LOW), "jobs_unstored": ("finished_at", "NOT store_io")}


def upgrade() -> None:
    op.drop_index("jobs_low", table_name="jobs")
    for name, (column, condition) in NAMES.items():
        where = sa.text(condition)
        op.create_index(
            name, "jobs", [column], unique=False, sqlite_where=where, postgresql_where=where
        )
    op.execute(
        "DELETE FROM webhooks WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = webhooks.job_id)"
    )
