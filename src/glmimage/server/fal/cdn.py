"""fal's file service: uploads of spec section 11 arrive here, and every file is read here."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from ...files import FileMissing, SigningStore
from ...files.headers import disposition, is_shown
from ...files.lifecycle import may_read
from ...jobs import FileRecord
from ..arrivals import find_file
from ..auth import credential
from ..body import parse_json, read_body
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .errors import WireError
from .render import file_url
from .uploads import MULTIPART_LIFETIME_S, Upload, complete, receive, receive_part

MAX_AGE_S = 31_536_000
_PARTS_BODY_BYTES = 2 * 1024 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
SIGNED_S = 600.0
"""How long an address of the bucket lets read; half of it may have passed when it is used again."""
SIGNED_PRIVATE_S = 60.0


async def upload_file(services: Services, request: Request) -> Response:
    """Take a whole file from the holder of a token (spec 11.1)."""
    upload = await _announced(services, request)
    await receive(services, request, upload)
    return JsonResponse({"access_url": _address(services, request, upload)})


async def begin_multipart(services: Services, request: Request) -> Response:
    """Name a file that will come in parts (spec 11.2)."""
    upload = await _announced(services, request)
    token = services.signer.seal("parts", upload.as_token(), MULTIPART_LIFETIME_S)
    return JsonResponse({"access_url": _address(services, request, upload), "uploadId": token})


async def put_file(services: Services, request: Request) -> Response:
    """Take a whole file at a signed address (spec 11.3, 11.4)."""
    upload = _sealed(services, request, "put", request.query_params.get("token", ""))
    await receive(services, request, upload)
    return JsonResponse({"access_url": _address(services, request, upload)})


async def put_part(services: Services, request: Request) -> Response:
    """Take one part; the etag goes into the header for Python and the body for JavaScript."""
    upload = _sealed(services, request, "parts", _parts_token(request))
    number = request.path_params["number"]
    etag = await receive_part(services, request, upload, number)
    return JsonResponse(
        {"partNumber": int(number), "etag": f'"{etag}"'}, headers={"ETag": f'"{etag}"'}
    )


async def complete_multipart(services: Services, request: Request) -> Response:
    """Join the parts into the file."""
    upload = _sealed(services, request, "parts", _parts_token(request))
    body = parse_json(await read_body(request, _PARTS_BODY_BYTES))
    await complete(services, upload, body)
    return JsonResponse({"access_url": _address(services, request, upload)})


async def read_file(services: Services, request: Request) -> Response:
    """Send a file, or the part of it that a Range names; 404 when it is over or hidden."""
    record = await find_file(services, request.path_params["id"])
    now = time.time()
    if record is None or (record.expires is not None and record.expires <= now):
        raise _no_such_file()
    await _check_acl(services, request, record)
    headers = _headers(record, now)
    if _matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    part = _wanted(request, record, headers["ETag"])
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{record.size}"
    headers["Content-Length"] = str(part.end - part.start)
    if request.method == "HEAD":
        return Response(status_code=part.status, headers=headers)
    if services.bucket is not None and is_shown(record.content_type):
        return await _redirect(services.bucket, record, now)
    chunks = services.files.read(record.path, part.start, part.end)
    try:  # the first chunk is read before the status is sent: a lost file is a 404
        first = await anext(chunks, b"")
    except FileMissing:
        raise _no_such_file() from None
    return StreamingResponse(_resumed(first, chunks), part.status, headers)


async def _redirect(bucket: SigningStore, record: FileRecord, now: float) -> Response:
    """Lead the caller to the bucket, for a while and not beyond the file's own time."""
    lifetime_s = SIGNED_PRIVATE_S if record.acl else SIGNED_S
    if record.expires is not None:
        lifetime_s = min(lifetime_s, record.expires - now)
    url = await bucket.sign("GET", record.path, lifetime_s)
    kept = "no-store" if record.acl else f"public, max-age={int(lifetime_s / 2)}"
    return RedirectResponse(
        url, 307, {"Cache-Control": kept, "Cross-Origin-Resource-Policy": "cross-origin"}
    )


class _Part(NamedTuple):
    status: int
    start: int
    end: int


def _wanted(request: Request, record: FileRecord, etag: str) -> _Part:
    """Return the bytes [start, end) that a Range asks for; raise 416 when there are none."""
    whole = _Part(200, 0, record.size)
    match = _RANGE.fullmatch(request.headers.get("range", "").strip().lower())
    condition = request.headers.get("if-range")
    if match is None or match.groups() == ("", "") or condition not in (None, etag):
        return whole  # an unreadable range, or several, is answered with the whole file
    first, last = match.groups()
    if not first:
        start, end = max(record.size - int(last), 0), record.size
    else:
        start = int(first)
        end = min(int(last) + 1, record.size) if last else record.size
        if last and int(last) < start:
            return whole
    if start >= record.size or end <= start:
        raise WireError(
            416,
            {"detail": f"The file has {record.size} bytes."},
            {"Content-Range": f"bytes */{record.size}"},
        )
    return _Part(206, start, end)


def _headers(record: FileRecord, now: float) -> dict[str, str]:
    age = MAX_AGE_S if record.expires is None else int(min(MAX_AGE_S, record.expires - now))
    audience = "public" if not record.acl else "private"
    return {
        "Content-Type": record.content_type,
        "Content-Disposition": disposition(record.content_type, record.name),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Accept-Ranges": "bytes",
        # a file never changes under its id
        "ETag": f'"{record.id}"',
        "Last-Modified": formatdate(record.created, usegmt=True),
        "Cache-Control": f"{audience}, max-age={age}, immutable",
    }


def _matches(condition: str, etag: str) -> bool:
    given = [one.strip().removeprefix("W/") for one in condition.split(",")]
    return etag in given or "*" in given


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _check_acl(services: Services, request: Request, record: FileRecord) -> None:
    if not record.acl or _is_signed(services, request, record):
        return
    key = await services.keys.find(credential(request))
    users = (key.id, key.name) if key is not None else ()
    decision = may_read(record.acl, record.owner, users)
    if decision == "forbid":
        raise WireError(403, {"detail": "This file may not be read with this key."})
    if decision != "allow":
        raise _no_such_file()


def _is_signed(services: Services, request: Request, record: FileRecord) -> bool:
    """Say whether the address was signed for this file by its owner, and still holds."""
    token = services.signer.unseal("read", request.query_params.get("identity", ""))
    return token is not None and token["id"] == record.id


async def _announced(services: Services, request: Request) -> Upload:
    """Return the file that the headers of a token's holder announce."""
    owner, headers = await _owner(services, request), request.headers
    name, content_type = headers.get("x-fal-file-name"), headers.get("content-type")
    return await Upload.new(services, request, owner, name, content_type)


async def _owner(services: Services, request: Request) -> str | None:
    """Return the id of the key that a token was made for, or that came itself; raise 401."""
    text = credential(request)
    token = services.signer.unseal("cdn", text)
    if token is not None:
        owner: str | None = token["o"]
        return owner
    key = await services.keys.check(request)
    return key.id if key is not None else None


def _sealed(services: Services, request: Request, kind: str, token: str) -> Upload:
    content = services.signer.unseal(kind, token)
    if content is None or content["id"] != request.path_params["id"]:
        detail = "This upload address is wrong or over. Ask for a new one."
        raise WireError(403, {"detail": detail, "error_type": "bad_request"})
    return Upload.from_token(content)


def _parts_token(request: Request) -> str:
    return str(request.path_params.get("upload") or request.query_params.get("token", ""))


def _address(services: Services, request: Request, upload: Upload) -> str:
    return file_url(services.addresses.files(request), upload.id, upload.name)


def _no_such_file() -> WireError:
    return WireError(404, {"detail": "There is no such file. It may have expired."})


CDN_ROUTES = (
    Route("cdn", "POST", "/files/upload", upload_file, needs_key=False),
    Route("cdn", "POST", "/files/upload/multipart", begin_multipart, needs_key=False),
    Route("cdn", "PUT", "/files/upload/put/{id}", put_file, needs_key=False),
    Route("cdn", "PUT", "/files/upload/multipart/{id}/{number}", put_part, needs_key=False),
    Route(
        "cdn", "POST", "/files/upload/multipart/{id}/complete", complete_multipart, needs_key=False
    ),
    Route(
        "cdn", "PUT", "/files/b/{id}/{name}/multipart/{upload}/{number}", put_part, needs_key=False
    ),
    Route(
        "cdn",
        "POST",
        "/files/b/{id}/{name}/multipart/{upload}/complete",
        complete_multipart,
        needs_key=False,
    ),
    Route("cdn", "GET", "/files/b/{id}/{name}", read_file, needs_key=False),
)
