"""Who has used what: usage by time, billing events, requests by endpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, null, or_, select

from .queue import JOB_COLUMNS, job_from
from .records import ENDED, BillingEvent, Job, UsageRow
from .schema import jobs, payloads
from .schema import usage as usage_table


def usage(
    connection: Connection,
    start: float = 0.0,
    end: float = math.inf,
    *,
    endpoints: Sequence[str] = (),
    api_key_id: str | None = None,
    by_key: bool = False,
    slice_s: float | None = None,
) -> list[UsageRow]:
    """Sum up what was used from `start` to before `end`, by endpoint and price.

    by_key: also by API key. slice_s: also by slices of time of this length, counted from 1970.
    """
    table = usage_table.c
    begin = func.floor(table.at / slice_s) * slice_s if slice_s else func.min(table.at)
    groups: list[Any] = [table.endpoint, table.unit_price]
    if by_key:
        groups.append(table.api_key_id)
    if slice_s:
        groups.append(begin)
    query = (
        select(
            table.endpoint,
            (table.api_key_id if by_key else null()).label("api_key_id"),
            begin.label("start"),
            func.count().label("num_requests"),
            func.sum(table.megapixels).label("megapixels"),
            table.unit_price,
            func.sum(table.cost).label("cost"),
        )
        .group_by(*groups)
        .order_by("start", table.endpoint)
    )
    query = _within(query, table.at, start, end)
    if endpoints:
        query = query.where(table.endpoint.in_(endpoints))
    if api_key_id is not None:
        query = query.where(table.api_key_id == api_key_id)
    return [UsageRow(**row._mapping) for row in connection.execute(query)]


def billing_events(
    connection: Connection,
    start: float = 0.0,
    end: float = math.inf,
    *,
    endpoints: Sequence[str] = (),
    api_key_id: str | None = None,
    job_id: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[BillingEvent]:
    """Return what single requests have cost, the newest first."""
    table = usage_table.c
    names = ("job_id", "endpoint", "api_key_id", "at", "megapixels", "unit_price", "cost")
    query = select(*(table[name] for name in names)).order_by(table.at.desc(), table.job_id)
    query = _within(query, table.at, start, end).limit(limit).offset(offset)
    if endpoints:
        query = query.where(table.endpoint.in_(endpoints))
    if api_key_id is not None:
        query = query.where(table.api_key_id == api_key_id)
    if job_id is not None:
        query = query.where(table.job_id == job_id)
    return [BillingEvent(**row._mapping) for row in connection.execute(query)]


def requests(
    connection: Connection,
    endpoint: str | None = None,
    *,
    start: float = 0.0,
    end: float = math.inf,
    statuses: Sequence[tuple[int, int]] = (),
    job_id: str | None = None,
    api_key_id: str | None = None,
    sort_by: str = "ended_at",
    with_payloads: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> list[Job]:
    """Return jobs that have ended, the newest (or the longest: "duration") first.

    start, end: of their end. statuses: ranges of HTTP statuses, both ends included.
    """
    columns: list[Any] = list(JOB_COLUMNS)
    query: Select[Any] = select(*columns)
    if with_payloads:
        query = select(*columns, payloads.c.input, payloads.c.result).outerjoin(
            payloads, payloads.c.job_id == jobs.c.id
        )
    query = query.where(jobs.c.state.in_(sorted(ENDED)))
    query = _within(query, jobs.c.finished_at, start, end)
    if endpoint is not None:
        query = query.where(jobs.c.endpoint == endpoint)
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    if api_key_id is not None:
        query = query.where(jobs.c.api_key_id == api_key_id)
    if statuses:
        ranges = [jobs.c.status.between(low, high) for low, high in statuses]
        query = query.where(or_(*ranges))
    duration = jobs.c.finished_at - func.coalesce(jobs.c.started_at, jobs.c.finished_at)
    first = duration.desc() if sort_by == "duration" else jobs.c.finished_at.desc()
    query = query.order_by(first, jobs.c.number.desc()).limit(limit).offset(offset)
    rows = connection.execute(query)
    return [job_from(row, *row[len(JOB_COLUMNS) :]) for row in rows]


def _within(query: Select[Any], column: Any, start: float, end: float) -> Select[Any]:
    query = query.where(column >= start)
    return query if math.isinf(end) else query.where(column < end)
