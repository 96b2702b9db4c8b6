"""Webhooks that are due; they were written with the end of their job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from .database import store_time
from .records import Webhook
from .schema import webhooks

DELIVERY_LEASE_S = 180.0
"""Longer than the slowest delivery; another process may try again after it."""


def due_webhooks(
    connection: Connection, now: float | None = None, limit: int = 50
) -> list[Webhook]:
    """Take deliveries that are due; each is nobody else's for DELIVERY_LEASE_S."""
    now = store_time(connection) if now is None else now
    rows = connection.execute(
        select(webhooks)
        .where(webhooks.c.next_attempt <= now)
        .order_by(webhooks.c.next_attempt)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if rows:
        connection.execute(
            update(webhooks)
            .where(webhooks.c.id.in_([row.id for row in rows]))
            .values(next_attempt=now + DELIVERY_LEASE_S)
        )
    return [_webhook(row) for row in rows]


def next_webhook_at(connection: Connection) -> float | None:
    """Return when the next delivery is due; None when none is pending."""
    query = select(webhooks.c.next_attempt).where(webhooks.c.next_attempt.is_not(None))
    found: float | None = connection.execute(
        query.order_by(webhooks.c.next_attempt).limit(1)
    ).scalar()
    return found


def webhook_delivered(connection: Connection, id: str, status: int) -> None:
    """Note that the receiver has taken a delivery."""
    _note(connection, id, state="delivered", status=status, error=None, next_attempt=None)


def webhook_failed(
    connection: Connection,
    id: str,
    error: str,
    next_attempt: float | None,
    status: int | None = None,
) -> None:
    """Note a failed attempt; without a next one the delivery has failed for good."""
    state = "failed" if next_attempt is None else "pending"
    _note(connection, id, state=state, status=status, error=error, next_attempt=next_attempt)


def advance_webhooks(connection: Connection, longest_s: float) -> int:
    """Let deliveries that are due later than any can be wait for `longest_s`: the clock was put
    back."""
    latest = store_time(connection) + max(longest_s, DELIVERY_LEASE_S)
    advanced = update(webhooks).where(webhooks.c.next_attempt > latest)
    return connection.execute(advanced.values(next_attempt=latest)).rowcount


def list_webhooks(
    connection: Connection, job_id: str | None = None, limit: int = 100
) -> Sequence[Webhook]:
    """Return deliveries, the newest first."""
    query = select(webhooks).order_by(webhooks.c.created_at.desc()).limit(limit)
    if job_id is not None:
        query = query.where(webhooks.c.job_id == job_id)
    return [_webhook(row) for row in connection.execute(query)]


# what another process has settled meanwhile stays so
_NOTE = update(webhooks).where(
    webhooks.c.id == bindparam("webhook_id"), webhooks.c.state == "pending"
)


def _note(connection: Connection, id: str, **values: Any) -> None:
    if values["next_attempt"] is None:
        values["finished_at"] = store_time(connection)
    connection.execute(_NOTE.values(attempts=webhooks.c.attempts + 1, **values), {"webhook_id": id})


def _webhook(row: Row[tuple[Any, ...]]) -> Webhook:
    return Webhook(**row._mapping)
