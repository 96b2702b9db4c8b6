"""The platform API: models, prices, usage, requests, deliveries (spec 14).

A key sees what was asked for with it; without keys, everything is everybody's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..files import FilesError
from ..jobs import Job
from ..jobs.records import preview_place
from . import query
from .body import read_input
from .fal import openapi
from .fal.errors import NotFound, RequestError, WireError
from .fal.render import file_url, inference_time, result_body, timestamp
from .fal.schemas import INPUTS
from .responses import JsonResponse
from .routing import Route
from .services import Services

UNIT, CURRENCY = "megapixels", "USD"
TIMEFRAMES = {"minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}
STATUSES = {"success": (200, 299), "user_error": (400, 499), "error": (500, 599)}
MAX_BODY = 64 * 1024
MAX_QUANTITY = 1e9


async def models(services: Services, request: Request) -> Response:
    """List the endpoints, with their OpenAPI document when asked for."""
    expand = query.choices(request, "expand", ["openapi-3.0"], [])
    found = []
    for endpoint in query.endpoints(request) or INPUTS:
        title, category, _ = openapi.TITLES[endpoint]
        model: dict[str, Any] = {
            "endpoint_id": endpoint,
            "metadata": {
                "display_name": title,
                "category": category,
                "description": INPUTS[endpoint].__doc__,
                "status": "active",
                "updated_at": timestamp(Path(openapi.__file__).stat().st_mtime),
            },
        }
        if expand:
            model["openapi"] = openapi.document("queue", endpoint)
        found.append(model)
    return JsonResponse({"models": found, "next_cursor": None, "has_more": False})


async def pricing(services: Services, request: Request) -> Response:
    """Say what a megapixel costs."""
    prices = [
        {
            "endpoint_id": endpoint,
            "unit_price": services.settings.unit_price,
            "unit": UNIT,
            "currency": CURRENCY,
        }
        for endpoint in query.endpoints(request) or INPUTS
    ]
    return JsonResponse({"prices": prices, "next_cursor": None, "has_more": False})


async def estimate(services: Services, request: Request) -> Response:
    """Add up what so many units, or so many calls like the past ones, would cost."""
    body = await read_input(request, MAX_BODY)
    kind, asked = body.get("estimate_type"), body.get("endpoints")
    names = {"unit_price": "unit_quantity", "historical_api_price": "call_quantity"}
    if not isinstance(kind, str) or kind not in names:
        raise RequestError("bad_request", f"estimate_type must be one of {', '.join(names)}.")
    if not isinstance(asked, Mapping) or not asked:
        raise RequestError("bad_request", "endpoints must be an object with endpoint ids as names.")
    total = 0.0
    for endpoint, quantities in asked.items():
        if endpoint not in INPUTS:
            raise RequestError("bad_request", f"There is no endpoint {endpoint[:60]!r}.")
        quantity = quantities.get(names[kind]) if isinstance(quantities, Mapping) else None
        if isinstance(quantity, bool) or not isinstance(quantity, int | float):
            raise RequestError("bad_request", f"{endpoint} needs a number as {names[kind]}.")
        if not 0 <= quantity <= MAX_QUANTITY:
            raise RequestError("bad_request", f"{names[kind]} must be 0 to {MAX_QUANTITY:g}.")
        price = services.settings.unit_price
        if kind == "historical_api_price":
            price *= await _usual_megapixels(services, endpoint)
        total += quantity * price
    return JsonResponse(
        {"estimate_type": kind, "total_cost": round(total, 6), "currency": CURRENCY}
    )


async def usage(services: Services, request: Request) -> Response:
    """Sum up what was used, as a whole and by slices of time."""
    start, end = query.period(request)
    expand = query.choices(request, "expand", ["time_series", "summary"], ["time_series"])
    frame = query.choices(request, "timeframe", list(TIMEFRAMES), ["day"])[0]
    options = {"endpoints": query.endpoints(request), "api_key_id": _key_id(request)}
    answer: dict[str, Any] = {"next_cursor": None, "has_more": False}
    if "summary" in expand:
        rows = await services.store.usage(start, end, **options)
        answer["summary"] = [_usage_row(row) for row in rows]
    if "time_series" in expand:
        rows = await services.store.usage(start, end, slice_s=TIMEFRAMES[frame], **options)
        buckets: dict[float, list[dict[str, Any]]] = {}
        for row in rows:
            buckets.setdefault(row.start, []).append(_usage_row(row))
        answer["time_series"] = [
            {"bucket": timestamp(at), "results": results} for at, results in buckets.items()
        ]
    return JsonResponse(answer)


async def billing_events(services: Services, request: Request) -> Response:
    """List what single requests have cost."""
    start, end = query.period(request)
    limit, begin = query.whole(request, "limit", 50, 1, 100), query.offset(request)
    events = await services.store.billing_events(
        start,
        end,
        endpoints=query.endpoints(request),
        api_key_id=_key_id(request),
        job_id=request.query_params.get("request_id"),
        limit=limit + 1,
        offset=begin,
    )
    rows = [
        {
            "request_id": event.job_id,
            "endpoint_id": event.endpoint,
            "timestamp": timestamp(event.at),
            "output_units": round(event.megapixels, 6),
            "unit_price": event.unit_price,
            "cost_total": round(event.cost, 6),
        }
        for event in events
    ]
    return _page("billing_events", rows, limit, begin)


async def requests_by_endpoint(services: Services, request: Request) -> Response:
    """List requests of one endpoint that have ended."""
    return await _requests(services, request, "items", query.endpoints(request, required=True)[0])


async def search_requests(services: Services, request: Request) -> Response:
    """List requests that have ended, of any endpoint, the newest first."""
    asked = query.endpoints(request)
    return await _requests(services, request, "results", asked[0] if asked else None)


async def delete_payloads(services: Services, request: Request) -> Response:
    """Delete what was asked and answered, and the pictures; the bill stays."""
    job = await services.store.get(request.path_params["request_id"])
    if job is None or _key_id(request) not in (None, job.api_key_id):
        raise NotFound
    if not job.ended:
        raise WireError(409, {"detail": "The request has not ended. Cancel it first, or wait."})
    base, results = services.addresses.files(request), []
    for record in await services.store.files_of(job.id):
        failure = None
        try:
            await services.files.delete(record.path)
            await services.store.delete_file_rows([record.id])
        except FilesError as error:
            failure = error.message
        results.append({"link": file_url(base, record.id, record.name), "exception": failure})
    await services.store.delete_payload(job.id)
    return JsonResponse({"cdn_delete_results": results})


async def previews(services: Services, request: Request) -> Response:
    """List the newest preview of each picture, for who asked with `X-Glmimage-Preview`."""
    job = await services.live.get(request.path_params["request_id"])
    if job is None or _key_id(request) not in (None, job.api_key_id):
        raise NotFound
    base, now = services.addresses.files(request), time.time()
    newest: dict[int, dict[str, Any]] = {}
    for record in sorted(await services.store.files_of(job.id), key=lambda one: one.created):
        if record.kind == "preview" and (record.expires is None or record.expires > now):
            index, number = preview_place(record.name)
            url = file_url(base, record.id, record.name)
            newest[index] = {"image_index": index, "number": number, "url": url}
    rows = [row for _, row in sorted(newest.items())]
    return JsonResponse({"previews": rows})


async def webhooks(services: Services, request: Request) -> Response:
    """List deliveries, the newest first: which arrived, which failed and why."""
    limit = query.whole(request, "limit", 50, 1, 100)
    job_id = request.query_params.get("request_id")
    rows = []
    for one in await services.store.list_webhooks(job_id, limit):
        job = await services.live.get(one.job_id)
        if _key_id(request) not in (None, job.api_key_id if job is not None else None):
            continue
        rows.append(
            {
                "request_id": one.job_id,
                "url": one.url,
                "state": one.state,
                "attempts": one.attempts,
                "created_at": timestamp(one.created_at),
                "next_attempt_at": _time(one.next_attempt),
                "finished_at": _time(one.finished_at),
                "status_code": one.status,
                "error": one.error,
            }
        )
    return JsonResponse({"deliveries": rows})


async def meta(services: Services, request: Request) -> Response:
    """Say from where webhooks come: from this machine, whose addresses only its owner knows."""
    return JsonResponse({"webhook_ip_ranges": []})


async def _requests(
    services: Services, request: Request, name: str, endpoint: str | None
) -> Response:
    start, end = query.period(request)
    limit, begin = query.whole(request, "limit", 50, 1, 100), query.offset(request)
    wanted = query.choices(request, "status", list(STATUSES), [])
    sort_by = query.choices(request, "sort_by", ["ended_at", "duration"], ["ended_at"])[0]
    payloads = bool(query.choices(request, "expand", ["payloads"], []))
    jobs = await services.store.requests(
        endpoint,
        start=start,
        end=end,
        statuses=[STATUSES[status] for status in wanted],
        job_id=request.query_params.get("request_id"),
        api_key_id=_key_id(request),
        sort_by=sort_by,
        with_payloads=payloads,
        limit=limit + 1,
        offset=begin,
    )
    base = services.addresses.files(request)
    rows = [_request_row(job, base if payloads else None) for job in jobs]
    return _page(name, rows, limit, begin)


def _request_row(job: Job, files_base: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": job.id,
        "endpoint_id": job.endpoint,
        "sent_at": timestamp(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.finished_at),
        "status_code": job.status,
        "duration": inference_time(job),
    }
    if files_base is not None:
        found = result_body(job, files_base)
        row |= {"json_input": job.input, "json_output": None if found is None else found[1]}
    return row


async def _usual_megapixels(services: Services, endpoint: str) -> float:
    rows = await services.store.usage(endpoints=[endpoint])
    num_requests = sum(row.num_requests for row in rows)
    return sum(row.megapixels for row in rows) / num_requests if num_requests else 1.0


def _usage_row(row: Any) -> dict[str, Any]:
    return {
        "endpoint_id": row.endpoint,
        "unit": UNIT,
        "quantity": round(row.megapixels, 6),
        "num_requests": row.num_requests,
        "unit_price": row.unit_price,
        "cost_total": round(row.cost, 6),
        "currency": CURRENCY,
    }


def _page(name: str, rows: list[dict[str, Any]], limit: int, begin: int) -> Response:
    more = len(rows) > limit
    following = query.cursor(begin + limit) if more else None
    return JsonResponse({name: rows[:limit], "next_cursor": following, "has_more": more})


def _key_id(request: Request) -> str | None:
    key = request.scope.get("api_key")
    return None if key is None else key.id


def _time(at: float | None) -> str | None:
    return None if at is None else timestamp(at)


ROUTES = [
    Route("platform", "GET", "/v1/models", models),
    Route("platform", "GET", "/v1/models/pricing", pricing),
    Route("platform", "POST", "/v1/models/pricing/estimate", estimate),
    Route("platform", "GET", "/v1/models/usage", usage),
    Route("platform", "GET", "/v1/models/billing-events", billing_events),
    Route("platform", "GET", "/v1/models/requests/by-endpoint", requests_by_endpoint),
    Route("platform", "GET", "/v1/models/requests/search", search_requests),
    Route("platform", "DELETE", "/v1/models/requests/{request_id}/payloads", delete_payloads),
    Route("platform", "GET", "/v1/models/requests/{request_id}/previews", previews),
    Route("platform", "GET", "/v1/webhooks", webhooks),
    Route("platform", "GET", "/v1/meta", meta),
]
