"""Let web pages of other origins call the server: preflights, and what they may read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from ..config import Settings
from .proxy import is_proxy

METHODS = "GET, POST, PUT, DELETE, HEAD, OPTIONS"
REQUEST_HEADERS = (
    "authorization, content-type, accept, x-fal-target-url, x-fal-queue-priority, "
    "x-fal-runner-hint, x-fal-request-timeout, x-fal-request-start-timeout, "
    "x-fal-object-lifecycle, x-fal-object-lifecycle-preference, x-fal-store-io, x-fal-no-retry, "
    "x-fal-file-name, x-app-fal-disable-fallback, x-glmimage-cache, "
    "x-glmimage-preview"
)
EXPOSED_HEADERS = (
    "x-request-id, x-fal-request-id, x-fal-request-timeout-type, x-fal-error-type, "
    "x-fal-retryable, x-fal-needs-retry, x-fal-billable-units, x-fal-served-from, retry-after, "
    "etag, content-range, accept-ranges"
)
MAX_AGE_S = 86400
RawHeaders = list[tuple[bytes, bytes]]


class Cors:
    """Answer for the origins of the setting; keys travel in a header, never in a cookie."""

    def __init__(self, settings: Settings) -> None:
        origins = {origin.strip() for origin in settings.cors_origins.split(",")}
        self._any = "*" in origins
        self._origins = origins - {""}

    def preflight(self, scope: Scope) -> RawHeaders | None:
        """Return the headers of the answer to a preflight; None when the request is none."""
        headers = Headers(scope=scope)
        if scope["method"] != "OPTIONS":
            return None
        # fal's proxy protocol takes OPTIONS from anybody
        if "access-control-request-method" not in headers and not is_proxy(scope):
            return None
        asked = headers.get("access-control-request-headers")
        return [
            *self.headers(scope),
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", (asked or REQUEST_HEADERS).encode("latin-1")),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
        ]

    def headers(self, scope: Scope) -> RawHeaders:
        """Return what every answer to a page of another origin carries."""
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if origin is None and not self._any:
            return []
        exposed = (b"access-control-expose-headers", EXPOSED_HEADERS.encode())
        if self._any:
            return [(b"access-control-allow-origin", b"*"), exposed]
        if origin is None or origin.decode("latin-1") not in self._origins:
            return [(b"vary", b"Origin")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin"), exposed]
