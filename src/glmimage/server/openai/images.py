"""OpenAI's images API: generations and edits, answered at once or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from ...jobs import Job
from ..body import read_input
from ..event_stream import EventStream
from ..fal.caller import read_caller
from ..fal.errors import WireError
from ..fal.render import result_headers
from ..fal.run import HUNG_UP, ended_before_hang_up
from ..fal.schemas import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from ..live_jobs import patiently
from ..references import origin_of
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from ..submission import Submission, submit
from .answer import finished, images_response
from .edit_form import read_edit_form
from .errors import ApiError
from .models import check_model
from .params import AUTO_SIZE, ImageParams, read_params, read_size
from .stream import stream_events


async def generate(services: Services, request: Request) -> Response:
    """Paint from a prompt."""
    with counting_invalid(services, TEXT_TO_IMAGE):
        params = read_params(await read_input(request, services.settings.max_body_bytes))
        check_model(services.settings, params.model)
        size = read_size(params.size, AUTO_SIZE)
    return await _paint(services, request, params, size, None)


async def edit(services: Services, request: Request) -> Response:
    """Paint from a prompt and one or several pictures."""
    with counting_invalid(services, IMAGE_TO_IMAGE):
        form = await read_edit_form(request, services.settings.max_body_bytes)
        params = read_params(form.fields)
        check_model(services.settings, params.model)
        size = read_size(params.size, form.auto_size)
    return await _paint(services, request, params, size, form.image_urls)


@contextmanager
def counting_invalid(services: Services, endpoint: str) -> Iterator[None]:
    """Count a request that is refused before it could become a job, as one that was not taken."""
    try:
        yield
    except ApiError:
        told = {"endpoint": endpoint, "reason": "invalid"}
        services.counters.meters.count("glmimage_requests_rejected_total", **told)
        raise


async def _paint(
    services: Services,
    request: Request,
    params: ImageParams,
    size: tuple[int, int],
    image_urls: list[str] | None,
) -> Response:
    job = await submit_image(services, request, params, size, image_urls)
    if params.stream:
        return await _streamed(services, request, params, job)
    ended = await until_ended(services, request, job)
    body = await images_response(services, ended, params, services.addresses.files(request))
    return answer_with(services, request, ended, body)


async def submit_image(
    services: Services,
    request: Request,
    params: ImageParams,
    size: tuple[int, int],
    image_urls: list[str] | None,
) -> Job:
    """Let the request in at the one way in; raise WireError when it is refused there."""
    asked = Submission(
        TEXT_TO_IMAGE if image_urls is None else IMAGE_TO_IMAGE,
        params.fal_body(size, image_urls),
        read_caller(request),
        "openai",
        origin_of(services, request),
        for_worker=params.for_worker(),
        trace_parent=request.headers.get("traceparent"),
    )
    job, _ = await submit(services, asked)
    request.scope["request_id"] = job.id
    if job.ended and job.state != "done":
        finished(await patiently(partial(services.store.get, job.id)))
    return job


async def until_ended(services: Services, request: Request, job: Job) -> Job:
    """Wait for the end of a job and return it; raise 499, and cancel it, when the caller hangs up.

    What has been purged meanwhile is returned as it was.
    """
    if not job.ended and not await ended_before_hang_up(services, request, job):
        await services.store.cancel(job.id, HUNG_UP)
        raise WireError(499, HUNG_UP)
    return await patiently(partial(services.store.get, job.id)) or job


def answer_with(
    services: Services, request: Request, job: Job, body: dict[str, object]
) -> JsonResponse:
    """Send a body with a job's headers; forget the job when it is not to be kept."""
    headers = {**result_headers(job), "x-request-id": job.id}
    response = JsonResponse(body, 200, headers)
    if not job.store_io:
        response.background = BackgroundTask(services.store.delete_payload, job.id)
    return response


async def _streamed(
    services: Services, request: Request, params: ImageParams, job: Job
) -> EventStream:
    async def cancel() -> None:
        await services.store.cancel(job.id, HUNG_UP)

    kind = "image_generation" if job.endpoint == TEXT_TO_IMAGE else "image_edit"
    events = stream_events(services, job, params, kind)
    headers = {**result_headers(job), "x-request-id": job.id}
    return EventStream(events, headers, cancel, named=True)


ROUTES = [
    Route("openai", "POST", "/images/generations", generate),
    Route("openai", "POST", "/images/edits", edit),
]
