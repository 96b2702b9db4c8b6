"""OpenAI's images API: generations and edits, answered at once or as a stream."""

from __future__ import annotations

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
from ..references import origin_of
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from ..submission import Submission, submit
from .answer import finished, images_response
from .edit_form import read_edit_form
from .models import check_model
from .params import AUTO_SIZE, ImageParams, read_params, read_size
from .stream import stream_events


async def generate(services: Services, request: Request) -> Response:
    """Paint from a prompt."""
    body = await read_input(request, services.settings.max_body_bytes)
    return await _paint(services, request, read_params(body), None, AUTO_SIZE)


async def edit(services: Services, request: Request) -> Response:
    """Paint from a prompt and one or several pictures."""
    form = await read_edit_form(request, services.settings.max_body_bytes)
    params = read_params(form.fields)
    return await _paint(services, request, params, form.image_urls, form.auto_size)


async def _paint(
    services: Services,
    request: Request,
    params: ImageParams,
    image_urls: list[str] | None,
    auto_size: tuple[int, int],
) -> Response:
    check_model(services.settings, params.model)
    size = read_size(params.size, auto_size)
    job = await submit_image(services, request, params, size, image_urls)
    if params.stream:
        return await _streamed(services, request, params, job)
    await until_ended(services, request, job)
    ended = await services.store.get(job.id)
    files_base = services.addresses.files(request)
    body = await images_response(services, ended, params, files_base)
    return answer_with(services, request, ended or job, body)


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
    )
    job, _ = await submit(services, asked)
    request.scope["request_id"] = job.id
    if job.ended and job.state != "done":
        finished(await services.store.get(job.id))
    return job


async def until_ended(services: Services, request: Request, job: Job) -> None:
    """Wait for the end of a job; raise 499, and cancel it, when the caller hangs up."""
    if not job.ended and not await ended_before_hang_up(services, request, job):
        await services.store.cancel(job.id, HUNG_UP)
        raise WireError(499, HUNG_UP)


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
