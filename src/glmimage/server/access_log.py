"""Count and log what was answered; polls are logged at the level of debugging only."""

from __future__ import annotations

import logging

from starlette.types import Scope

from .services import Services

log = logging.getLogger(__name__)
OWN = "server"
"""The name of the surface without a name."""


def note_answer(services: Services, scope: Scope, status: int, seconds: float) -> None:
    """Take note of an answer. status: 0 when none was begun. seconds: until it began."""
    surface = scope.get("surface")
    told = {
        "surface": "none" if surface is None else surface or OWN,
        "method": scope["method"] if scope["method"] in _METHODS else "other",
        "status": str(status),
    }
    meters = services.counters.meters
    meters.count("glmimage_http_requests_total", **told)
    meters.observe("glmimage_http_answer_seconds", seconds, surface=told["surface"])
    level = logging.INFO if scope["method"] in ("POST", "PUT", "DELETE") else logging.DEBUG
    if log.isEnabledFor(level):
        # without the query: it may hold a token or a signature
        more = {"seconds": round(seconds, 4), "http_request_id": scope["request_id"]}
        log.log(level, "%s %s: %d", scope["method"], scope["path"], status, extra=told | more)


_METHODS = frozenset("GET HEAD POST PUT DELETE PATCH OPTIONS".split())
