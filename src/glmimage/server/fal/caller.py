"""What a caller asks for beside the input: fal's request headers, read once."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from ...jobs import ApiKey
from ...jobs.records import MAX_PREVIEWS, Priority
from .errors import RequestError

MAX_START_TIMEOUT_S = 365 * 86400.0
MIN_START_TIMEOUT_S = 0.1
_NUMBER = re.compile(r"\d{1,12}(\.\d{0,12})?|\.\d{1,12}")
_DECISIONS = ("allow", "forbid", "hide")


@dataclass(frozen=True)
class Caller:
    """Hold who asks and how. start_timeout_s: from submission to the worker's start."""

    key: ApiKey | None
    priority: Priority = "normal"
    start_timeout_s: float | None = None
    store_io: bool = True
    retry: bool = True
    lifecycle: dict[str, Any] | None = None
    use_cache: bool = True
    use_fallback: bool = True
    num_previews: int = 0

    @property
    def key_id(self) -> str | None:
        return self.key.id if self.key is not None else None


def read_caller(connection: HTTPConnection) -> Caller:
    """Read the headers; raise 400 `bad_request` for one that says nothing sensible."""
    headers = connection.headers
    start = headers.get("x-fal-request-start-timeout") or headers.get("x-fal-request-timeout")
    return Caller(
        key=connection.scope.get("api_key"),
        priority="low" if _word(headers.get("x-fal-queue-priority")) == "low" else "normal",
        start_timeout_s=_start_timeout(start),
        store_io=_word(headers.get("x-fal-store-io")) not in ("0", "false", "no"),
        retry=_word(headers.get("x-fal-no-retry")) not in ("1", "true", "yes"),
        lifecycle=parse_lifecycle(
            headers.get("x-fal-object-lifecycle-preference")
            or headers.get("x-fal-object-lifecycle")
        ),
        use_cache=_word(headers.get("x-glmimage-cache")) not in ("off", "0", "false", "no"),
        num_previews=_num_previews(_word(headers.get("x-glmimage-preview"))),
        use_fallback="x-app-fal-disable-fallback" not in headers
        and "x-fal-disable-fallbacks" not in headers,
    )


def parse_lifecycle(text: str | None) -> dict[str, Any] | None:
    """Read the JSON of a lifecycle header, spec 11.5; raise 400 `bad_request`."""
    if not text:
        return None
    name = "X-Fal-Object-Lifecycle-Preference"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError("bad_request", f"{name} is not valid JSON.") from None
    if not isinstance(value, dict):
        raise RequestError("bad_request", f"{name} must be a JSON object.")
    lifecycle: dict[str, Any] = {}
    seconds = value.get("expiration_duration_seconds")
    if seconds is not None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise RequestError("bad_request", f"{name}: expiration_duration_seconds is no number.")
        if not 0 <= seconds <= 1e10 or not math.isfinite(seconds):
            raise RequestError(
                "bad_request", f"{name}: expiration_duration_seconds must be 0 (never) or more."
            )
    if "expiration_duration_seconds" in value:
        lifecycle["expiration_duration_seconds"] = seconds
    if value.get("initial_acl") is not None:
        lifecycle["initial_acl"] = parse_acl(value["initial_acl"], f"{name}: initial_acl")
    return lifecycle


def parse_acl(value: Any, name: str) -> dict[str, Any]:
    """Check who may read a file, spec 11.5; raise 400 `bad_request`. name: where it stands."""
    if not isinstance(value, dict):
        raise RequestError("bad_request", f"{name} must be an object.")
    default = value.get("default", "allow")
    rules = [] if value.get("rules") is None else value["rules"]
    if default not in _DECISIONS or not isinstance(rules, list):
        raise RequestError(
            "bad_request",
            f"{name}.default must be one of {', '.join(_DECISIONS)}, {name}.rules a list.",
        )
    for rule in rules:
        if (
            not isinstance(rule, dict)
            or not isinstance(rule.get("user"), str)
            or rule.get("decision") not in _DECISIONS
        ):
            raise RequestError(
                "bad_request",
                f"Each of {name}.rules needs a user and one of the decisions "
                f"{', '.join(_DECISIONS)}.",
            )
    return {
        "default": default,
        "rules": [{"user": rule["user"], "decision": rule["decision"]} for rule in rules],
    }


def parse_limit(text: str | None) -> int | None:
    """Read `fal_max_queue_length`; raise 400 `bad_request`."""
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestError("bad_request", "fal_max_queue_length must be a whole number, 0 or more.")
    return int(text)


def _start_timeout(text: str | None) -> float | None:
    if text is None or text == "":
        return None
    seconds = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not MIN_START_TIMEOUT_S < seconds <= MAX_START_TIMEOUT_S:
        raise RequestError(
            "bad_request",
            f"X-Fal-Request-Timeout must be a number of seconds above {MIN_START_TIMEOUT_S:g}, "
            f"not {text[:40]!r}.",
        )
    return seconds


def _num_previews(word: str) -> int:
    if word in ("on", "true", "yes"):
        return 1
    return (
        min(int(word), MAX_PREVIEWS) if word.isascii() and word.isdigit() and len(word) < 3 else 0
    )


def _word(text: str | None) -> str:
    return (text or "").strip().lower()
