"""How long a key's new files live, and who may read them, unless a request says (spec 14)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ..jobs import JobStore
from .body import read_input
from .fal.caller import parse_acl
from .fal.errors import RequestError
from .responses import JsonResponse
from .routing import Route

if TYPE_CHECKING:
    from .services import Services

REMEMBERED_S = 2.0
"""Another gateway's change holds here after so long."""
MAX_REMEMBERED = 10_000
MAX_SECONDS = 10**10
NAMES = ("expiration_duration_seconds", "initial_acl")
_BODY_BYTES = 64 * 1024
_NOBODY = ""
"""Whose settings are everybody's: where there are no keys."""


class StorageSettings:
    """Know what was set for each key; ask the store now and then only."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    async def get(self, key_id: str | None) -> dict[str, Any]:
        """Return the lifecycle of a key's new files, without what was not set."""
        owner = key_id or _NOBODY
        known = self._known.get(owner)
        if known is not None and time.monotonic() - known[0] < REMEMBERED_S:
            return known[1]
        lifecycle = await self._store.get_storage_settings(owner)
        self._remember(owner, lifecycle)
        return lifecycle

    async def set(self, key_id: str | None, lifecycle: dict[str, Any]) -> None:
        """Replace it; holds in this process at once."""
        owner = key_id or _NOBODY
        await self._store.set_storage_settings(owner, lifecycle)
        self._remember(owner, lifecycle)

    async def complete(
        self, key_id: str | None, wish: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return the lifecycle that a request asks for, the rest as it was set for the key."""
        return {**await self.get(key_id), **(wish or {})} or None

    def _remember(self, owner: str, lifecycle: dict[str, Any]) -> None:
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[owner] = time.monotonic(), lifecycle


async def get_settings(services: Services, request: Request) -> Response:
    """Answer what was set for the caller's key; null is the server's own setting."""
    lifecycle = await services.storage_settings.get(_key_id(request))
    return JsonResponse({name: lifecycle.get(name) for name in NAMES})


async def set_settings(services: Services, request: Request) -> Response:
    """Replace them; what is left out or null is the server's own setting again."""
    body = await read_input(request, _BODY_BYTES)
    lifecycle: dict[str, Any] = {}
    seconds = body.get("expiration_duration_seconds")
    if seconds is not None:
        if isinstance(seconds, bool) or not isinstance(seconds, int):
            raise RequestError("bad_request", "expiration_duration_seconds must be a whole number.")
        if not 1 <= seconds <= MAX_SECONDS:
            raise RequestError(
                "bad_request", f"expiration_duration_seconds must be 1 to {MAX_SECONDS}, or null."
            )
        lifecycle["expiration_duration_seconds"] = seconds
    if body.get("initial_acl") is not None:
        lifecycle["initial_acl"] = parse_acl(body["initial_acl"], "initial_acl")
    await services.storage_settings.set(_key_id(request), lifecycle)
    return JsonResponse({name: lifecycle.get(name) for name in NAMES})


def _key_id(request: Request) -> str | None:
    key = request.scope.get("api_key")
    return None if key is None else key.id


ROUTES = [
    Route("platform", "GET", "/v1/storage/settings", get_settings),
    Route("platform", "PUT", "/v1/storage/settings", set_settings),
]
