"""Which workers are alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from .database import insert_for, store_time
from .records import Stage, Worker
from .schema import workers

FORGET_AFTER_S = 86400.0


def worker_seen(
    connection: Connection,
    worker_id: str,
    stages: Sequence[Stage],
    model: str,
    model_revision: str,
    *,
    ready: bool,
    started_at: float,
    info: Mapping[str, Any],
) -> None:
    """Note that a worker is alive, and whether its model is loaded."""
    now = store_time(connection)
    values = {
        "stages": list(stages),
        "model": model,
        "model_revision": model_revision,
        "ready": ready,
        "started_at": started_at,
        "seen_at": now,
        "info": dict(info),
    }
    insert = insert_for(connection.dialect.name)(workers).values(id=worker_id, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=[workers.c.id], set_=values))
    connection.execute(delete(workers).where(workers.c.seen_at < now - FORGET_AFTER_S))


def worker_gone(connection: Connection, worker_id: str) -> None:
    """Forget a worker that has stopped."""
    connection.execute(delete(workers).where(workers.c.id == worker_id))


def live_workers(connection: Connection, since: float) -> list[Worker]:
    """Return the workers seen after a time."""
    query = select(workers).where(workers.c.seen_at >= since).order_by(workers.c.started_at)
    return [_worker(row) for row in connection.execute(query)]


def _worker(row: Row[tuple[Any, ...]]) -> Worker:
    values = dict(row._mapping)
    return Worker(**values | {"stages": tuple(values["stages"])})
