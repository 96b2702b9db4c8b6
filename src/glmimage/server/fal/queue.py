"""The queue: submit, status, status stream, result, cancel (spec 4)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...jobs import Job
from ..body import read_input
from ..event_stream import EventStream
from ..live_jobs import patiently
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from ..submission import submission_of, submit
from ..webhook_url import check_webhook_url
from .caller import parse_limit, read_caller
from .errors import NotFound, RequestError, WireError
from .render import status_body, submitted_body
from .run import answer, answer_of
from .schemas import APP, INPUTS

_NUMBER = re.compile(r"-?\d{1,300}(\.\d{1,300})?(e[+-]?\d{1,3})?")


async def submit_request(services: Services, request: Request) -> Response:
    """Take a request, valid or not; a fault in the input is told by its result."""
    query = request.query_params
    caller = read_caller(request)
    limit = parse_limit(query.get("fal_max_queue_length"))
    webhook_url = check_webhook_url(query.get("fal_webhook"))
    body = await read_input(request, services.settings.max_body_bytes)
    asked = submission_of(request, services, endpoint_of(request), body, caller, "queue")
    asked = replace(asked, webhook_url=webhook_url, max_queue_length=limit)
    job, position = await submit(services, asked)
    if job.state == "failed" and not services.settings.defer_validation:
        return await answer(services, request, job.id)
    taken = submitted_body(job, services.addresses.queue(request), position)
    headers = {"x-fal-request-id": job.id}
    if job.served_from:
        headers["X-Fal-Served-From"] = job.served_from
    return JsonResponse(taken, 200, headers)


async def request_status(services: Services, request: Request) -> Response:
    """Answer a poll from memory: 202 while there is something to wait for, then 200."""
    job = await _job(services, request)
    body = await _status(services, request, job)
    return JsonResponse(body, 200 if job.ended else 202, {"x-fal-request-id": job.id})


async def stream_status(services: Services, request: Request) -> Response:
    """Send the status at every change; each log entry once; close after COMPLETED."""
    job = await _job(services, request)
    return EventStream(_statuses(services, request, job), {"x-fal-request-id": job.id})


async def request_result(services: Services, request: Request) -> Response:
    """Answer with what the endpoint itself would have answered."""
    job = await services.store.get(request.path_params["request_id"])
    if job is None:
        raise NotFound
    request.scope["request_id"] = job.id
    if not job.ended:
        raise WireError(400, {"detail": "Request is still in progress"})
    return answer_of(job, services.addresses.files(request))


async def cancel_request(services: Services, request: Request) -> Response:
    """End a waiting request, ask for the end of a running one."""
    job_id = request.path_params["request_id"]
    answer = await services.store.cancel(job_id)
    if answer == "missing":
        raise NotFound
    headers = {"x-fal-request-id": job_id}
    if answer == "done":
        return JsonResponse({"status": "ALREADY_COMPLETED"}, 400, headers)
    return JsonResponse({"status": "CANCELLATION_REQUESTED"}, 202, headers)


def endpoint_of(request: Request) -> str:
    """Return the endpoint id that the request's route stands for."""
    endpoint: str = request.scope["route"].endpoint
    return endpoint


def wants_logs(request: Request) -> bool:
    """Read `logs=1|0|true|false`; raise 400 for anything else."""
    value = request.query_params.get("logs", "0").lower()
    if value in ("true", "false"):
        return value == "true"
    if _NUMBER.fullmatch(value):
        return float(value) != 0
    raise RequestError("bad_request", f"logs must be 1, 0, true or false, not {value[:40]!r}.")


async def _job(services: Services, request: Request) -> Job:
    job = await services.live.get(request.path_params["request_id"])
    if job is None:
        raise NotFound
    return job


async def _status(services: Services, request: Request, job: Job) -> dict[str, Any]:
    position = await services.live.position(job) if job.waiting else 0
    logs = await services.live.logs(job) if wants_logs(request) and not job.waiting else None
    return status_body(job, services.addresses.queue(request), position, logs)


async def _statuses(
    services: Services, request: Request, job: Job
) -> AsyncIterator[dict[str, Any]]:
    base = services.addresses.queue(request)
    with_logs, num_sent = wants_logs(request), 0
    shown: dict[str, Any] = {}
    async for current in services.live.changes(job.id):
        position, logs = 0, None
        if current.waiting:
            position = await patiently(partial(services.live.position, current))
        if with_logs and not current.waiting:
            entries = await patiently(partial(services.live.logs, current))
            logs = entries[num_sent:]
            num_sent = len(entries)
        body = status_body(current, base, position, logs)
        # a client appends the logs of each event, so an event without news would do no harm,
        # but it would tell nothing either
        if body != shown or logs:
            shown = body
            yield body


def _routes() -> list[Route]:
    routes = [
        Route("queue", method, f"/{endpoint}", submit_request, only_reads=False, endpoint=endpoint)
        for endpoint in INPUTS
        for method in ("POST", "GET")
    ]
    # by the app's id, as the clients ask; by the full id, as some documents write
    for app in dict.fromkeys((APP, *INPUTS)):
        one = f"/{app}/requests/{{request_id}}"
        routes += [
            Route("queue", "GET", f"{one}/status", request_status),
            Route("queue", "GET", f"{one}/status/stream", stream_status),
            Route("queue", "GET", one, request_result),
            Route("queue", "GET", f"{one}/response", request_result),
            Route("queue", "PUT", f"{one}/cancel", cancel_request),
        ]
    return routes


ROUTES = _routes()
