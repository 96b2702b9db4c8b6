"""Keep how long the files of a key live, and who may read them, unless a request says."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "storage_settings",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lifecycle", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
