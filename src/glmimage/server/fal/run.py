"""The synchronous call: one connection, one answer (spec 5)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from ...jobs import Job
from ..body import read_input
from ..event_stream import until_hang_up
from ..live_jobs import patiently
from ..responses import JsonResponse, error_response
from ..routing import Route
from ..services import Services
from ..submission import submission_of, submit
from .caller import read_caller
from .errors import NotFound, WireError
from .render import result_body, result_headers
from .schemas import INPUTS

HUNG_UP: dict[str, Any] = {
    "detail": "The client hung up before the request ended.",
    "error_type": "client_disconnected",
}


async def run_request(services: Services, request: Request) -> Response:
    """Do the work while the caller waits; one who hangs up does not want it any more."""
    caller = read_caller(request)
    body = await read_input(request, services.settings.max_body_bytes)
    endpoint = request.scope["route"].endpoint
    asked = submission_of(request, services, endpoint, body, caller, "run")
    job, _ = await submit(services, asked)
    request.scope["request_id"] = job.id
    if not job.ended and not await ended_before_hang_up(services, request, job):
        await services.store.cancel(job.id, HUNG_UP)
        raise WireError(499, HUNG_UP)
    return await answer(services, request, job.id)


async def ended_before_hang_up(services: Services, request: Request, job: Job) -> bool:
    """Wait for the job's end; False when the caller is gone first."""
    ending = asyncio.create_task(services.live.until_ended(job.id))
    leaving = asyncio.create_task(until_hang_up(request.receive))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return ending.done()
    finally:
        for task in (ending, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def answer(services: Services, request: Request, job_id: str) -> Response:
    """Return what a job that has ended came to; forget it when it is not to be kept."""
    job = await patiently(partial(services.store.get, job_id))
    if job is None:
        raise NotFound
    response = answer_of(job, services.addresses.files(request))
    if not job.store_io:
        response.background = BackgroundTask(services.store.delete_payload, job.id)
    return response


def answer_of(job: Job, files_base: str) -> Response:
    """Return the endpoint's own answer, good or bad; raise NotFound when it is not kept."""
    found = result_body(job, files_base)
    if found is None:
        raise NotFound
    status, body = found
    if status == 200:
        return JsonResponse(body, 200, result_headers(job))
    return error_response(WireError(status, body, result_headers(job)))


ROUTES = [
    Route("run", method, f"/{endpoint}", run_request, only_reads=False, endpoint=endpoint)
    for endpoint in INPUTS
    for method in ("POST", "GET")
]
