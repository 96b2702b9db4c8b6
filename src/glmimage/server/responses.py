"""JSON answers, as clients of fal need them: ASCII, with a type they take for JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from .fal.errors import WireError, error_headers

_encode = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False
).encode


def to_json(value: Any) -> bytes:
    """Encode as ASCII: a client may decode each chunk alone, so no character may span two."""
    return _encode(value).encode("ascii")


class JsonResponse(Response):
    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(to_json(content), status_code, headers)


def error_response(error: WireError) -> JsonResponse:
    """Turn an error into its answer, with the headers that belong to it."""
    headers = {**error_headers(error.status, error.body), **error.headers}
    return JsonResponse(error.body, error.status, headers)
