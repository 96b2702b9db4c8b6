"""fal's proxy protocol on one path: the target is read, mapped to a surface, and never fetched."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from .fal.errors import WireError
from .routing import FAL_HOSTS, host_name

PATH = "/api/fal/proxy"
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")
INVALID = "Invalid request"
"""A bare string, which is the whole answer (spec 12)."""


class InvalidTarget(WireError):
    """Refuse a target that is missing or no service of this server, as fal's own proxy does."""

    def __init__(self) -> None:
        super().__init__(400, {"detail": INVALID, "error_type": "bad_request"})


def is_proxy(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.rstrip("/") == PATH and host_name(_host(scope)) not in FAL_HOSTS


def inner_scope(scope: Scope, own: str) -> Scope:
    """Return the scope of the request that is meant; raise InvalidTarget.

    own: this server's own address, which may be a target as well.
    """
    headers = Headers(scope=scope)
    try:
        target = urlsplit(headers.get("x-fal-target-url", "").strip())
        target_host = host_name(target.netloc)
    except ValueError:
        raise InvalidTarget from None
    outer = headers.get("x-forwarded-host") or headers.get("host") or ""
    known = {outer.lower(), urlsplit(own).netloc.lower()}
    if target.scheme not in ("http", "https") or not target_host:
        raise InvalidTarget
    if target_host not in FAL_HOSTS and target.netloc.lower() not in known:
        raise InvalidTarget
    if unquote(target.path).rstrip("/") == PATH:
        raise InvalidTarget
    inner = dict(scope)
    inner["headers"] = list(scope["headers"])
    changed = MutableHeaders(scope=inner)
    changed["host"] = target.netloc
    if outer:
        changed["x-forwarded-host"] = outer  # files are read under the address of the outer call
    del changed["x-fal-target-url"]
    inner["path"] = unquote(target.path) or "/"
    inner["raw_path"] = target.path.encode("ascii", "replace")
    inner["query_string"] = target.query.encode("ascii", "replace")
    return inner


def _host(scope: Scope) -> str:
    return Headers(scope=scope).get("host", "")
