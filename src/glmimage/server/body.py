"""Read a request's body: within a limit, as strict JSON."""

from __future__ import annotations

import re
from typing import Any

import pydantic_core
from starlette.requests import ClientDisconnect, Request

from .fal.errors import ModelError, RequestError, WireError, detail_item
from .query_input import query_input

_PLACE = re.compile(r" at line (\d+) column (\d+)$")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body; raise 413 above `limit` bytes, before the rest of it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise RequestError("client_disconnected", "The client hung up while it sent.") from None
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """Decode JSON as the standard has it; raise 422 `json_invalid` with the place of the fault."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        reason = str(error)
        offset = _offset(body, reason)
        reason = _PLACE.sub("", reason)
        raise ModelError(
            [
                detail_item(
                    "json_invalid", "JSON decode error", ("body", offset), {"error": reason}, {}
                )
            ]
        ) from None


async def read_input(request: Request, limit: int) -> dict[str, Any]:
    """Return the body as a JSON object, of a GET its query; raise the 422 that says why not."""
    if request.method == "GET":
        return query_input(request)
    return check_object(parse_json(await read_body(request, limit)))


def check_object(value: Any) -> dict[str, Any]:
    """Return the value when it is a JSON object; raise 422 `model_attributes_type`."""
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise ModelError([detail_item("model_attributes_type", message, ("body",), None, value)])
    return value


def _offset(body: bytes, reason: str) -> int:
    place = _PLACE.search(reason)
    if place is None:
        return 0
    line, column = int(place[1]), int(place[2])
    start = 0
    for _ in range(line - 1):
        start = body.find(b"\n", start) + 1
    return min(start + max(column - 1, 0), len(body))


def _too_large(limit: int) -> WireError:
    return WireError(
        413,
        {
            "detail": f"The body is larger than {limit} bytes. "
            "Upload large files and send their URLs.",
            "error_type": "bad_request",
        },
    )
