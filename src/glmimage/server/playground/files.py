"""Serve the page and its files: read once, known by name, so that no path of a caller is opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from ..fal.errors import WireError
from ..routing import Route
from ..services import Services

FOLDER = Path(__file__).parent / "static"
PAGE = "index.html"
VERSION_MARK = b"{version}"
"""In the page: stands for the digest of all files, so that they may be cached for ever."""
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    content_type: str
    etag: str


@dataclass(frozen=True)
class _Site:
    """Hold the page and, by name, what it needs. version: of all files together."""

    page: _File
    files: dict[str, _File]
    version: str


@cache
def load_site() -> _Site:
    """Read all files of the folder."""
    contents = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file() and path.suffix in CONTENT_TYPES
    }
    everything = hashlib.sha256()
    for name, content in contents.items():
        everything.update(f"{name}\n{len(content)}\n".encode() + content)
    version = everything.hexdigest()[:16]
    page = contents.pop(PAGE).replace(VERSION_MARK, version.encode())
    files = {name: _file(name, content) for name, content in contents.items()}
    return _Site(_file(PAGE, page), files, version)


def security_policy(services: Services) -> str:
    """Return the page's content security policy: this server, and no other host."""
    hosts = "'self'"
    if services.settings.public_url:
        # the addresses of files are written under it, wherever the page was opened
        parts = urlsplit(services.settings.public_url)
        hosts += f" {parts.scheme}://{parts.netloc}"
    if services.bucket is not None:
        hosts += f" {services.bucket.origin}"
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "font-src": "'self'",
        "img-src": f"{hosts} blob: data:",
        "connect-src": hosts,
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


async def page(services: Services, request: Request) -> Response:
    """Send the page; a browser asks each time whether it has the newest."""
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": security_policy(services),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }
    return _send(request, load_site().page, headers)


async def asset(services: Services, request: Request) -> Response:
    """Send a file of the page's version; it never changes under this address."""
    site, params = load_site(), request.path_params
    found = site.files.get(params["name"]) if params["version"] == site.version else None
    if found is None:
        raise WireError(404, {"detail": "There is no such file of the page. Load the page again."})
    return _send(request, found, {"Cache-Control": "public, max-age=31536000, immutable"})


def _send(request: Request, file: _File, headers: dict[str, str]) -> Response:
    headers |= {"ETag": file.etag, "X-Content-Type-Options": "nosniff"}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)


def _file(name: str, content: bytes) -> _File:
    digest = hashlib.sha256(content).hexdigest()[:32]
    return _File(content, CONTENT_TYPES[Path(name).suffix], f'"{digest}"')


ROUTES = [
    Route("", "GET", "/", page, needs_key=False),
    Route("", "GET", "/playground/{version}/{name:path}", asset, needs_key=False),
]
