"""fal's two forms of failure, and the table of their types.

    ModelError    {"detail": [{"loc", "msg", "type", "url", ...}]}   input, content, work
    RequestError  {"detail": "...", "error_type": "..."}             the way there

Both are raised by handlers, and stored with a failed job as (status, body).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

DOCS_URL = "https://docs.fal.ai/errors#"
MAX_INPUT_ECHO = 1000
"""characters; a longer value is not repeated in the error."""

REQUEST_ERRORS = {  # error_type -> HTTP status
    "request_timeout": 504,
    "startup_timeout": 504,
    "runner_scheduling_failure": 503,
    "runner_connection_timeout": 503,
    "runner_disconnected": 503,
    "runner_connection_refused": 503,
    "runner_connection_error": 503,
    "runner_incomplete_response": 502,
    "runner_server_error": 500,
    "client_disconnected": 499,
    "client_cancelled": 499,
    "bad_request": 400,
    "internal_error": 500,
    "concurrent_requests_limit": 429,
    "rate_limit": 429,
    "queue_full": 429,
}
RETRYABLE = {
    *(name for name, status in REQUEST_ERRORS.items() if status in (429, 502, 503)),
    "startup_timeout",
    "internal_server_error",
    "generation_timeout",
    "downstream_service_unavailable",
}


class WireError(Exception):
    """Answer the request with this status and body."""

    def __init__(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status}")  # the body may repeat the input, and this comes into logs
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})


class ModelError(WireError):
    """Refuse the input, or report that the work failed: 422 or 5xx with `detail[]`."""

    def __init__(self, details: Sequence[Mapping[str, Any]], status: int = 422) -> None:
        super().__init__(status, {"detail": [dict(detail) for detail in details]})


class RequestError(WireError):
    """Report what went wrong on the way, in the flat form. kind: a key of REQUEST_ERRORS."""

    def __init__(self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            REQUEST_ERRORS[kind], {"detail": detail, "error_type": kind}, headers=headers
        )


class NotFound(WireError):
    """Say that there is no such request, in fal's words."""

    def __init__(self) -> None:
        super().__init__(404, {"status": "NOT_FOUND"})


def detail_item(
    kind: str,
    message: str,
    loc: Sequence[str | int] = ("body",),
    ctx: Mapping[str, Any] | None = None,
    given: Any = ...,
) -> dict[str, Any]:
    """Build one entry of `detail[]`. given: the offending value, repeated when it is short."""
    item: dict[str, Any] = {"loc": list(loc), "msg": message, "type": kind, "url": DOCS_URL + kind}
    if ctx:
        item["ctx"] = dict(ctx)
    if given is not ... and _may_be_repeated(given):
        item["input"] = given
    return item


def error_headers(status: int, body: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that go with an error body: its type, and whether to try again."""
    detail, kind = body.get("detail"), body.get("error_type")
    headers: dict[str, str] = {}
    if isinstance(kind, str):
        headers["X-Fal-Error-Type"] = kind
    elif isinstance(detail, list) and detail:
        kind = detail[0].get("type")
    if kind == "request_timeout":
        headers["X-Fal-Request-Timeout-Type"] = "user"
    if isinstance(kind, str):
        retry = "true" if kind in RETRYABLE else "false"
        headers["X-Fal-Retryable"] = headers["X-Fal-Needs-Retry"] = retry
    return headers


def content_policy_violation(message: str, field: str = "prompt") -> ModelError:
    """Refuse a prompt or picture; never retried by a client that follows fal's guide."""
    return ModelError([detail_item("content_policy_violation", message, ("body", field))])


CANCELLED: tuple[int, dict[str, Any]] = (
    499,
    {"detail": "Request cancelled", "error_type": "client_cancelled"},
)
START_TIMED_OUT: tuple[int, dict[str, Any]] = (
    504,
    {"detail": "Request timed out", "error_type": "request_timeout"},
)


def _may_be_repeated(value: Any) -> bool:
    if isinstance(value, str) and len(value) > MAX_INPUT_ECHO:
        return False
    try:
        return len(json.dumps(value, allow_nan=False)) <= MAX_INPUT_ECHO * 6  # as \uXXXX
    except (TypeError, ValueError):
        return False
