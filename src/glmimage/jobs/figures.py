"""What the store can tell about the deployment as a whole, for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from .database import insert_for
from .records import AWAITED
from .schema import counters, files, webhooks

LEASE_LOSSES = "lease_losses"


@dataclass(frozen=True)
class StoreFigures:
    """Hold numbers of the whole deployment."""

    lease_losses: int
    webhooks_pending: int


def store_figures(connection: Connection) -> StoreFigures:
    """Read what costs little."""
    losses = connection.execute(
        select(counters.c.value).where(counters.c.name == LEASE_LOSSES)
    ).scalar()
    pending = connection.execute(
        select(func.count()).select_from(webhooks).where(webhooks.c.next_attempt.is_not(None))
    ).scalar_one()
    return StoreFigures(losses or 0, pending)


def file_figures(connection: Connection) -> dict[str, tuple[int, int]]:
    """Return (number, bytes) of the stored files by kind; reads every file's row."""
    kinds = connection.execute(
        select(files.c.kind, func.count(), func.sum(files.c.size))
        .where(files.c.kind != AWAITED)
        .group_by(files.c.kind)
    )
    return {kind: (number, int(size)) for kind, number, size in kinds}


def count_lease_losses(connection: Connection, number: int) -> None:
    """Add to the leases that have run out."""
    row = insert_for(connection.dialect.name)(counters).values(name=LEASE_LOSSES, value=number)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=[counters.c.name], set_={"value": counters.c.value + number}
        )
    )
