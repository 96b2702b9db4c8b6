"""The streamed call: progress as it happens, the output as the last event (spec 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...jobs import Job
from ..body import read_input
from ..event_stream import EventStream
from ..live_jobs import patiently
from ..routing import Route
from ..services import Services
from ..submission import submission_of, submit
from .caller import read_caller
from .render import log_entry, result_body, result_headers
from .run import HUNG_UP, answer
from .schemas import INPUTS


async def stream_request(services: Services, request: Request) -> Response:
    """Send progress, then the output. What is known to fail at once has its own status."""
    caller = read_caller(request)
    body = await read_input(request, services.settings.max_body_bytes)
    endpoint = request.scope["route"].endpoint
    asked = submission_of(request, services, endpoint, body, caller, "stream")
    job, _ = await submit(services, asked)
    request.scope["request_id"] = job.id
    if job.ended and job.state != "done":
        return await answer(services, request, job.id)

    async def cancel() -> None:
        await services.store.cancel(job.id, HUNG_UP)

    return EventStream(_events(services, request, job), result_headers(job), cancel)


async def _events(services: Services, request: Request, job: Job) -> AsyncIterator[dict[str, Any]]:
    shown: dict[str, Any] = {}
    num_sent = 0
    async for current in services.live.changes(job.id):
        if current.ended:
            break
        event = await _progress(services, current)
        entries = await patiently(partial(services.live.logs, current))
        event["logs"] = [log_entry(entry) for entry in entries[num_sent:]]
        num_sent = len(entries)
        if event != shown:
            shown = event
            yield event
    ended = await patiently(partial(services.store.get, job.id))
    found = None if ended is None else result_body(ended, services.addresses.files(request))
    yield {"detail": "The request was deleted."} if found is None else found[1]
    if not job.store_io:
        await services.store.delete_payload(job.id)


async def _progress(services: Services, job: Job) -> dict[str, Any]:
    if job.waiting:
        position = await patiently(partial(services.live.position, job))
        return {"status": "IN_QUEUE", "request_id": job.id, "queue_position": position}
    return {"status": "IN_PROGRESS", "request_id": job.id, "progress": round(job.progress, 3)}


ROUTES = [
    Route("run", "POST", f"/{endpoint}/stream", stream_request, takes_token=True, endpoint=endpoint)
    for endpoint in INPUTS
]
