"""What only operators may see: queue, workers, and failures, usage and deliveries of all keys.

Operators are the keys that GLMIMAGE_OPERATOR_KEYS names; without keys, everybody is one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..jobs import ApiKey, Job, UsageRow
from . import query
from .fal.errors import WireError
from .fal.render import inference_time, timestamp
from .fal.schemas import INPUTS
from .responses import JsonResponse
from .routing import Route
from .services import Services

MAX_LIVE = 200
FAILURES = [(400, 498), (500, 599)]
"""HTTP statuses; 499 is a caller's own wish."""


def is_operator(services: Services, key: ApiKey | None) -> bool:
    """Say whether a caller may see what others did."""
    if key is None:
        return not services.keys.required
    named = {name.strip() for name in services.settings.operator_keys.split(",")} - {""}
    return key.id in named or key.name in named


def check_operator(services: Services, request: Request) -> None:
    """Raise 403 for a key that is not an operator's."""
    if not is_operator(services, request.scope.get("api_key")):
        raise WireError(
            403,
            {
                "detail": "This key may not see what other keys do. Whoever runs the server can "
                "name it in GLMIMAGE_OPERATOR_KEYS."
            },
        )


async def queue(services: Services, request: Request) -> Response:
    """Tell what waits and what is in work, the next ones first."""
    check_operator(services, request)
    names, now = await _key_names(services), time.time()
    jobs = services.live.jobs()
    queues = []
    for endpoint in INPUTS:
        here = [job for job in jobs if job.endpoint == endpoint]
        waiting = [job for job in here if job.waiting]
        oldest = min((job.created_at for job in waiting), default=None)
        queues.append(
            {
                "endpoint_id": endpoint,
                "num_waiting": len(waiting),
                "num_running": len(here) - len(waiting),
                "oldest_waits_s": None if oldest is None else round(max(now - oldest, 0.0), 1),
            }
        )
    rows = [_live_row(job, names) for job in jobs[:MAX_LIVE]]
    return JsonResponse({"queues": queues, "requests": rows, "has_more": len(jobs) > MAX_LIVE})


async def workers(services: Services, request: Request) -> Response:
    """Tell who works, with which model, on what."""
    check_operator(services, request)
    rows = [
        {
            "worker_id": worker.id,
            "model": worker.model,
            "stages": list(worker.stages),
            "ready": worker.ready,
            "device": worker.info.get("device"),
            "memory": worker.info.get("memory"),
            "num_requests": worker.info.get("num_jobs", 0),
            "started_at": timestamp(worker.started_at),
            "seen_at": timestamp(worker.seen_at),
        }
        for worker in await services.capacity.workers()
    ]
    return JsonResponse({"workers": rows})


async def failures(services: Services, request: Request) -> Response:
    """List the newest requests that failed, of any key, and why."""
    check_operator(services, request)
    limit = query.whole(request, "limit", 20, 1, 100)
    names = await _key_names(services)
    jobs = await services.store.requests(statuses=FAILURES, with_payloads=True, limit=limit)
    rows = [
        {
            "request_id": job.id,
            "endpoint_id": job.endpoint,
            "key": names.get(job.api_key_id),
            "status_code": job.status,
            "error": _reason(job),
            "error_type": job.error_type,
            "attempts": job.attempt,
            "ended_at": None if job.finished_at is None else timestamp(job.finished_at),
            "duration": inference_time(job),
        }
        for job in jobs
    ]
    return JsonResponse({"failures": rows})


async def usage_by_key(services: Services, request: Request) -> Response:
    """Sum up what each key has used."""
    check_operator(services, request)
    start, end = query.period(request)
    names = await _key_names(services)
    sums: dict[str | None, dict[str, Any]] = {}
    for row in await services.store.usage(start, end, by_key=True):
        _add(sums, row, names)
    rows = sorted(sums.values(), key=lambda entry: -entry["cost_total"])
    return JsonResponse({"usage": rows, "currency": "USD"})


async def deliveries(services: Services, request: Request) -> Response:
    """List webhook deliveries of all keys, the newest first."""
    check_operator(services, request)
    limit = query.whole(request, "limit", 20, 1, 100)
    rows = [
        {
            "request_id": one.job_id,
            "url": one.url,
            "state": one.state,
            "attempts": one.attempts,
            "created_at": timestamp(one.created_at),
            "next_attempt_at": None if one.next_attempt is None else timestamp(one.next_attempt),
            "status_code": one.status,
            "error": one.error,
        }
        for one in await services.store.list_webhooks(None, limit)
    ]
    return JsonResponse({"deliveries": rows})


async def _key_names(services: Services) -> dict[str | None, str]:
    return {key.id: key.name for key in await services.store.list_keys()}


def _live_row(job: Job, names: Mapping[str | None, str]) -> dict[str, Any]:
    return {
        "request_id": job.id,
        "endpoint_id": job.endpoint,
        "key": names.get(job.api_key_id),
        "state": job.state,
        "stage": job.stage,
        "priority": job.priority,
        "progress": round(job.progress, 3),
        "num_images": job.num_images,
        "width": job.width,
        "height": job.height,
        "sent_at": timestamp(job.created_at),
        "started_at": None if job.started_at is None else timestamp(job.started_at),
        "worker_id": job.worker_id,
    }


def _reason(job: Job) -> str:
    """Return the failure in words, at most a paragraph."""
    detail = (job.result or {}).get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        place = ".".join(str(part) for part in detail[0].get("loc", ())[1:])
        text = f"{place}: {detail[0].get('msg')}" if place else str(detail[0].get("msg"))
    else:
        text = str(detail or job.error or job.last_error or "")
    return text[:400]


def _add(
    sums: dict[str | None, dict[str, Any]], row: UsageRow, names: Mapping[str | None, str]
) -> None:
    entry = sums.setdefault(
        row.api_key_id,
        {
            "key": names.get(row.api_key_id),
            "num_requests": 0,
            "megapixels": 0.0,
            "cost_total": 0.0,
        },
    )
    entry["num_requests"] += row.num_requests
    entry["megapixels"] = round(entry["megapixels"] + row.megapixels, 6)
    entry["cost_total"] = round(entry["cost_total"] + row.cost, 6)


ROUTES = [
    Route("platform", "GET", "/v1/operator/queue", queue),
    Route("platform", "GET", "/v1/operator/workers", workers),
    Route("platform", "GET", "/v1/operator/failures", failures),
    Route("platform", "GET", "/v1/operator/usage", usage_by_key),
    Route("platform", "GET", "/v1/operator/webhooks", deliveries),
]
