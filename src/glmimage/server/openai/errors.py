"""OpenAI's form of failure: {"error": {"message", "type", "param", "code"}}.

Handlers raise `ApiError`; what the rest of the server raises or stores with a failed job, in fal's
forms, is translated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from ..fal.errors import WireError
from ..responses import JsonResponse

REFUSED = "The request was refused by the safety system: "
_WRONG_KEY = (
    "The API key is missing or wrong. Send a key of this server: 'Authorization: Bearer <key>'."
)
# error_type of the flat form -> (status, type, code)
_KINDS: dict[str, tuple[int, str, str]] = {
    "bad_request": (400, "invalid_request_error", "invalid_request"),
    "rate_limit": (429, "requests", "rate_limit_exceeded"),
    "concurrent_requests_limit": (429, "requests", "rate_limit_exceeded"),
    "queue_full": (503, "server_error", "server_overloaded"),
    "request_timeout": (504, "server_error", "timeout"),
    "startup_timeout": (504, "server_error", "timeout"),
    "client_disconnected": (499, "server_error", "client_disconnected"),
    "client_cancelled": (499, "server_error", "cancelled"),
    "runner_scheduling_failure": (503, "server_error", "server_overloaded"),
}
_PARAMS = {"image_urls": "image", "num_images": "n", "image_size": "size"}


class ApiError(WireError):
    """Refuse a request in OpenAI's form. param: the field that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        super().__init__(status, body)


def blocked(message: str) -> ApiError:
    """Say that a prompt or a picture is not allowed."""
    return ApiError(
        400, REFUSED + message, "moderation_blocked", None, "image_generation_user_error"
    )


def translate(status: int, body: Mapping[str, Any]) -> ApiError:
    """Turn status and body of fal's forms into OpenAI's."""
    detail = body.get("detail")
    if status == 401:
        return ApiError(401, _WRONG_KEY, "invalid_api_key")
    if isinstance(detail, list) and detail:
        return _from_detail(status, detail[0])
    message = str(detail or "There is no such thing here.")
    known = _KINDS.get(str(body.get("error_type")))
    if known is not None and status != 413:
        return ApiError(known[0], message, known[2], None, known[1])
    if status == 404:
        return ApiError(404, message, "unknown_url")
    if status < 500:
        return ApiError(status, message, "invalid_request")
    return ApiError(status, message, "internal_error", None, "server_error")


def error_response(error: WireError, scope: Scope) -> JsonResponse:
    """Answer any failure in OpenAI's form."""
    api = error if isinstance(error, ApiError) else translate(error.status, error.body)
    headers = {**error.headers, "x-request-id": scope["request_id"]}
    return JsonResponse(api.body, api.status, headers)


def _from_detail(status: int, entry: Mapping[str, Any]) -> ApiError:
    message, kind = str(entry.get("msg")), str(entry.get("type"))
    if kind == "content_policy_violation":
        return blocked(message)
    if status >= 500:
        return ApiError(status, message, "internal_error", None, "server_error")
    loc = [part for part in entry.get("loc", ()) if part != "body"]
    if kind in ("json_invalid", "model_attributes_type"):
        return ApiError(400, f"The body is not a JSON object: {message}.", "invalid_json")
    param = _param(loc)
    if param is not None:
        message = f"Invalid '{param}': {message[:1].lower()}{message[1:]}"
    return ApiError(400, _sentence(message), "invalid_value", param)


def _param(loc: list[Any]) -> str | None:
    if not loc:
        return None
    name = _PARAMS.get(str(loc[0]), str(loc[0]))
    indices = "".join(f"[{part}]" for part in loc[1:] if isinstance(part, int))
    return name + indices


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?")) else f"{message}."
