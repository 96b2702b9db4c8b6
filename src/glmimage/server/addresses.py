"""Under which addresses a caller reaches this server."""

from __future__ import annotations

import re

from starlette.requests import HTTPConnection

from ..config import Settings
from .routing import FAL_HOSTS, host_name

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class Addresses:
    """Write absolute URLs: under the configured address, or the one the caller used."""

    def __init__(self, settings: Settings) -> None:
        self._public = settings.public_url
        host = settings.host
        if host in ("0.0.0.0", "::", ""):
            host = "127.0.0.1"
        elif ":" in host:
            host = f"[{host}]"
        self.own = self._public or f"http://{host}:{settings.http_port}"
        """The address to name where no request says how it came here; no slash at the end."""
        listening = {f"http://{host}:{settings.http_port}", f"https://{host}:{settings.https_port}"}
        self.all_own = frozenset({self.own} | listening)
        """Every address of which it is certain that it leads here."""

    def queue(self, request: HTTPConnection) -> str:
        """Return what stands before `/fal-ai/...` in the URLs of a submitted request."""
        if self._public is None and host_name(request.headers.get("host", "")) in FAL_HOSTS:
            return "https://queue.fal.run"
        return f"{self.origin(request)}/queue"

    def files(self, request: HTTPConnection) -> str:
        """Return what stands before `/files/...` in the URLs of files."""
        return f"{self.origin(request)}/cdn"

    def rest(self, request: HTTPConnection) -> str:
        """Return what stands before `/storage/...` and `/.well-known/...`."""
        return f"{self.origin(request)}/rest"

    def origin(self, request: HTTPConnection) -> str:
        """Return scheme and host under which this caller can reach the server.

        A caller that came under one of fal's names gets the server's own address: its files must
        also open in programs that are not redirected. X-Forwarded-* are believed as much as Host.
        """
        if self._public is not None:
            return self._public
        host = request.headers.get("x-forwarded-host") or request.headers.get("host") or ""
        if host_name(host) in FAL_HOSTS or not _HOST.fullmatch(host):
            return self.own
        scheme = request.headers.get("x-forwarded-proto") or request.url.scheme
        return f"{'https' if scheme in ('https', 'wss') else 'http'}://{host}"
