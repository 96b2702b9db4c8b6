"""Z.ai's own form of the images API: one picture, one size more, an answer with its URL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ..body import read_input
from ..fal.errors import WireError
from ..fal.schemas import TEXT_TO_IMAGE
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .answer import images_response
from .errors import ApiError, translate
from .images import answer_with, counting_invalid, submit_image, until_ended
from .models import check_model
from .params import OWN_FIELDS, SHORT, ImageParams, read_params, read_size

AUTO_SIZE = (1280, 1280)
HARMLESS = [{"role": "assistant", "level": 3}]
SEVERE = 0
# our code -> Z.ai's
_CODES = {
    "invalid_api_key": "1002",
    "model_not_found": "1211",
    "missing_required_parameter": "1213",
    "moderation_blocked": "1301",
    "rate_limit_exceeded": "1302",
    "server_overloaded": "1305",
}
_INVALID, _PARAMETERS, _INTERNAL = "1214", "1210", "500"


class ZaiParams(BaseModel):
    """What Z.ai takes; ours come beside it."""

    model_config = ConfigDict(extra="ignore")

    model: StrictStr
    prompt: StrictStr
    quality: Literal["hd", "standard"] = "hd"
    size: StrictStr = "auto"
    user_id: Annotated[StrictStr, Field(min_length=6, max_length=128)] | None = None


async def generate(services: Services, request: Request) -> Response:
    """Paint one picture and answer where it is."""
    with counting_invalid(services, TEXT_TO_IMAGE):
        params, size = _read(services, await read_input(request, services.settings.max_body_bytes))
    job = await submit_image(services, request, params, size, None)
    ended = await until_ended(services, request, job)
    answer = await images_response(services, ended, params, services.addresses.files(request))
    document = {
        "created": int(time.time()),
        "id": job.id,
        "request_id": job.id,
        "data": [{"url": entry["url"]} for entry in answer["data"]],
        "content_filter": HARMLESS,
    }
    return answer_with(services, request, ended, document)


def error_response(error: WireError, scope: Scope) -> JsonResponse:
    """Answer any failure in Z.ai's form: {"error": {"code", "message"}}."""
    api = error if isinstance(error, ApiError) else translate(error.status, error.body)
    said = api.body["error"]
    code = _CODES.get(said["code"])
    if code is None:
        code = _INTERNAL if api.status >= 500 else _INVALID if said["param"] else _PARAMETERS
    body: dict[str, Any] = {"error": {"code": code, "message": said["message"]}}
    if said["code"] == "moderation_blocked":
        body["contentFilter"] = [{"role": "user", "level": SEVERE}]
    headers = {**error.headers, "x-request-id": scope["request_id"]}
    return JsonResponse(body, api.status, headers)


def _read(services: Services, body: Mapping[str, Any]) -> tuple[ImageParams, tuple[int, int]]:
    """Return the same request in OpenAI's words, and its (width, height)."""
    asked = _checked(body)
    check_model(services.settings, asked.model)
    own = {name: body[name] for name in (*OWN_FIELDS, *SHORT) if body.get(name) is not None}
    given = {"prompt": asked.prompt, "quality": asked.quality}
    params = read_params({**given, "response_format": "url", "output_format": "png", **own})
    return params, read_size(asked.size, AUTO_SIZE)


def _checked(body: Mapping[str, Any]) -> ZaiParams:
    given = {name: value for name, value in body.items() if value is not None}
    try:
        return ZaiParams.model_validate(given)
    except ValidationError as error:
        entry = error.errors(include_url=False)[0]
        name = str(entry["loc"][0])
        code = "missing_required_parameter" if entry["type"] == "missing" else "invalid_value"
        raise ApiError(400, f"Invalid '{name}': {entry['msg']}.", code, name) from None


ROUTES = [Route("zai", "POST", "/images/generations", generate)]
