"""Read query parameters of the platform API; say which one is wrong and what it may be."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.requests import Request

from .fal.errors import RequestError
from .fal.schemas import INPUTS

MAX_ENDPOINTS = 50
_WHOLE = re.compile(r"\d{1,12}")


def whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; raise 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and _WHOLE.fullmatch(text)) or not low <= int(text) <= high:
        raise _wrong(name, text, f"a whole number from {low} to {high}")
    return int(text)


def moment(request: Request, name: str, default: float) -> float:
    """Return a time in unix seconds, given as ISO 8601; raise 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _wrong(name, text, "a time such as 2026-01-31T12:00:00Z") from None


def period(request: Request) -> tuple[float, float]:
    """Return (start, end), unix seconds, the end excluded."""
    return moment(request, "start", 0.0), moment(request, "end", math.inf)


def choices(request: Request, name: str, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Return the values of a parameter that is repeated or separated by commas; raise 400."""
    given = [part for text in request.query_params.getlist(name) for part in text.split(",")]
    for value in given:
        if value not in known:
            raise _wrong(name, value, f"one of {', '.join(known)}")
    return given or list(default)


def endpoints(request: Request, *, required: bool = False) -> list[str]:
    """Return the endpoint ids that are asked for; raise 400, or 404 for one that is not served."""
    given = [
        part for text in request.query_params.getlist("endpoint_id") for part in text.split(",")
    ]
    if required and not given:
        raise RequestError("bad_request", "endpoint_id is missing.")
    if len(given) > MAX_ENDPOINTS:
        raise RequestError("bad_request", f"At most {MAX_ENDPOINTS} values of endpoint_id.")
    for endpoint in given:
        if endpoint not in INPUTS:
            raise _wrong("endpoint_id", endpoint, f"one of {', '.join(INPUTS)}")
    return given


def offset(request: Request) -> int:
    """Return where a page begins, from its opaque cursor; raise 400."""
    text = request.query_params.get("cursor")
    if text is None:
        return 0
    try:
        number = base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii")
        if _WHOLE.fullmatch(number):
            return int(number)
    except (ValueError, binascii.Error):
        pass
    raise _wrong("cursor", text, "the next_cursor of a page before")


def cursor(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def _wrong(name: str, value: str, allowed: str) -> RequestError:
    return RequestError("bad_request", f"{name} is {value[:60]!r}; it must be {allowed}.")
