"""The platform API's part for stored files: who may read one, and signed addresses (spec 14)."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from ..jobs import FileRecord
from .arrivals import find_file
from .body import read_input
from .fal.caller import parse_acl
from .fal.errors import RequestError, WireError
from .references import origin_of, own_file_id
from .responses import JsonResponse
from .routing import Route
from .services import Services

SIGNED_FOR = "read"
DEFAULT_SIGNED_S = 3600
MAX_SIGNED_S = 7 * 86400
_BODY_BYTES = 64 * 1024
_EVERYBODY: dict[str, Any] = {"default": "allow", "rules": []}


async def get_acl(services: Services, request: Request) -> Response:
    """Answer who may read a file of the caller's."""
    return JsonResponse((await _own_file(services, request)).acl or _EVERYBODY)


async def set_acl(services: Services, request: Request) -> Response:
    """Replace who may read a file of the caller's; answer what holds from now on."""
    record = await _own_file(services, request)
    body = await read_input(request, _BODY_BYTES)
    if "default" not in body:
        raise RequestError("bad_request", "default is missing; it must be allow, forbid or hide.")
    acl = parse_acl(body, "acl")
    if not await services.store.set_file_acl(
        record.id, None if acl == _EVERYBODY else acl, record.expires
    ):
        raise _no_such_file()
    return JsonResponse(acl)


async def sign(services: Services, request: Request) -> Response:
    """Answer an address at which anybody may read a file of the caller's, for a while."""
    record = await _own_file(services, request)
    seconds = (await read_input(request, _BODY_BYTES)).get("expiration_seconds", DEFAULT_SIGNED_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise RequestError("bad_request", "expiration_seconds must be a whole number.")
    if not 1 <= seconds <= MAX_SIGNED_S:
        raise RequestError("bad_request", f"expiration_seconds must be 1 to {MAX_SIGNED_S}.")
    token = services.signer.seal(SIGNED_FOR, {"id": record.id}, seconds)
    url = f"{request.query_params['url']}?identity={token}"
    return JsonResponse({"url": url, "signed_url": url})


async def _own_file(services: Services, request: Request) -> FileRecord:
    """Return the file that `url` names; one of another key is as if there were none."""
    url = request.query_params.get("url", "")
    if not url:
        raise RequestError("bad_request", "url is missing: the full URL of a file.")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.query or parts.fragment:
        raise RequestError("bad_request", "url must be a file's URL, without a query.")
    origins = services.addresses.all_own | {origin_of(services, request)}
    file_id = own_file_id(url, origins)
    record = None if file_id is None else await find_file(services, file_id)
    key = request.scope.get("api_key")
    if record is None or (key is not None and record.owner != key.id):
        raise _no_such_file()
    if record.expires is not None and record.expires <= time.time():
        raise _no_such_file()
    return record


def _no_such_file() -> WireError:
    return WireError(404, {"detail": "There is no such file of yours. It may have expired."})


ROUTES = [
    Route("platform", "GET", "/v1/storage/files/acl", get_acl),
    Route("platform", "PUT", "/v1/storage/files/acl", set_acl),
    Route("platform", "POST", "/v1/storage/files/sign", sign),
]
