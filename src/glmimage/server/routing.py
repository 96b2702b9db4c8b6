"""Which surface a request is for, and which handler answers it.

A surface is told by the path's first segment (`/queue/...`), or by Host for the names that fal's
clients have built in (`queue.fal.run`). The empty surface is the server's own address.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from ..fal_hosts import CDN_HOSTS, QUEUE_HOSTS, REST_HOSTS, RUN_HOSTS

if TYPE_CHECKING:
    from .services import Services

Handler = Callable[["Services", Request], Awaitable[Response]]
SocketHandler = Callable[["Services", WebSocket], Awaitable[None]]

SURFACES = ("queue", "run", "rest", "cdn", "platform")
PREFIXES = {
    **{surface: surface for surface in SURFACES},
    "v1": "openai",
    "paas/v4": "zai",
    "api/paas/v4": "zai",
}
"""What a path begins with, and the surface that this means."""
FAL_HOSTS = {
    name: surface
    for surface, names in (
        ("run", RUN_HOSTS),
        ("queue", QUEUE_HOSTS),
        ("rest", REST_HOSTS),
        ("cdn", CDN_HOSTS),
        ("platform", ("api.fal.ai",)),
        ("", ("fal.ai",)),
    )
    for name in names
}


@dataclass(frozen=True)
class Route:
    """Bind a method and a path of one surface to a handler.

    path: `{name}` is one segment, `{name:path}` the rest. method: an HTTP method or "WEBSOCKET".
    needs_key=False: answers anybody. takes_token: a short-lived token will do as
    well. only_reads=False: a GET that does work, which HEAD must not do. endpoint: the endpoint id
    that the path stands for.
    """

    surface: str
    method: str
    path: str
    handler: Handler | SocketHandler
    needs_key: bool = True
    takes_token: bool = False
    only_reads: bool = True
    endpoint: str = ""


class Found(NamedTuple):
    """Hold what a path led to; `allowed` has the path's methods when `route` is None."""

    route: Route | None
    path_params: dict[str, str]
    allowed: tuple[str, ...]


def host_name(host: str) -> str:
    """Return the Host header's name in lower case, without port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def locate(host: str, path: str) -> tuple[str, str]:
    """Return (surface, path within it). host: as in the Host header, port and all."""
    surface = FAL_HOSTS.get(host_name(host))
    if surface is not None:
        return surface, path
    parts = path[1:].split("/", 3)
    for length in (1, 2, 3):
        surface = PREFIXES.get("/".join(parts[:length]))
        if surface is not None:
            return surface, "/" + "/".join(parts[length:])
    return "", path


class Router:
    """Find the route of a request; an optional slash at the end means nothing."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._surfaces: dict[str, dict[str, tuple[re.Pattern[str], dict[str, Route]]]] = {}
        for route in routes:
            patterns = self._surfaces.setdefault(route.surface, {})
            _, methods = patterns.setdefault(route.path, (_pattern(route.path), {}))
            if route.method in methods:
                raise ValueError(f"{route.method} {route.path} has two handlers")
            methods[route.method] = route

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            route
            for patterns in self._surfaces.values()
            for _, methods in patterns.values()
            for route in methods.values()
        ]

    def find(self, surface: str, method: str, path: str) -> Found:
        if path.endswith("/") and path != "/":
            path = path[:-1]
        allowed: set[str] = set()
        for pattern, methods in self._surfaces.get(surface, {}).values():
            match = pattern.fullmatch(path)
            if match is None:
                continue
            get = methods.get("GET")
            head = get if get is not None and get.only_reads else None
            route = methods.get(method) or (head if method == "HEAD" else None)
            if route is not None:
                return Found(route, match.groupdict(), ())
            allowed.update(methods, ["HEAD"] if head is not None else [])
        allowed.discard("WEBSOCKET")
        return Found(None, {}, tuple(sorted(allowed)))


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+(?::path)?\})", path)
    return re.compile("".join(_part(part) for part in parts))


def _part(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    name, _, kind = part[1:-1].partition(":")
    return f"(?P<{name}>.+)" if kind else f"(?P<{name}>[^/]+)"
