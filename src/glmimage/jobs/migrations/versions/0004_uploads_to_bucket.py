"""Find uploads that were to go straight to the bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    awaited = sa.text("kind = 'awaited'")
    op.create_index(
        "files_awaited",
        "files",
        ["created"],
        unique=False,
        sqlite_where=awaited,
        postgresql_where=awaited,
    )
