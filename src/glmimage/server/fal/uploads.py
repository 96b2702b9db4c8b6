"""What the upload flows share: the file that is to be, its parts, and how it is written down."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ...files import FileMissing, FilesError, StorageFull, TooManyBytes
from ...files.lifecycle import expiry_and_acl
from ...jobs import FileRecord
from ..services import Services
from .caller import parse_lifecycle
from .errors import RequestError, WireError

UPLOAD_LIFETIME_S = 3600.0
"""How long an address for an upload works."""
MULTIPART_LIFETIME_S = 86400.0
PARTS_FOLDER = "parts"
MAX_PARTS = 10_000
MAX_NAME = 120
_IDLE_S = 60.0
_MAX_LIFECYCLE = 2048
_CONTENT_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}(; ?charset=[\w-]{1,20})?", re.ASCII)
_ETAG = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """Describe a file before it has come. owner: the key's id."""

    id: str
    name: str
    content_type: str
    owner: str | None
    lifecycle: dict[str, Any] | None = None

    @classmethod
    async def new(
        cls,
        services: Services,
        request: Request,
        owner: str | None,
        name: str | None,
        content_type: str | None,
    ) -> Upload:
        """Draw an id; read the lifecycle header; raise 400 `bad_request`."""
        headers = request.headers
        text = headers.get("x-fal-object-lifecycle") or headers.get(
            "x-fal-object-lifecycle-preference"
        )
        if text and len(text) > _MAX_LIFECYCLE:
            raise RequestError(
                "bad_request", f"X-Fal-Object-Lifecycle is longer than {_MAX_LIFECYCLE} characters."
            )
        kind = (content_type or "").strip().lower()
        if not _CONTENT_TYPE.fullmatch(kind):
            kind = "application/octet-stream"
        lifecycle = await services.storage_settings.complete(owner, parse_lifecycle(text))
        return cls(str(uuid.uuid4()), clean_name(name), kind, owner, lifecycle)

    @property
    def path(self) -> str:
        return f"uploads/{self.id[:2]}/{self.id}"

    def as_token(self) -> dict[str, Any]:
        """Return what a token must say so that any gateway can take the upload."""
        content = {"id": self.id, "n": self.name, "t": self.content_type, "o": self.owner}
        return content | ({"l": self.lifecycle} if self.lifecycle else {})

    @classmethod
    def from_token(cls, content: dict[str, Any]) -> Upload:
        return cls(content["id"], content["n"], content["t"], content["o"], content.get("l"))


def clean_name(name: str | None) -> str:
    """Return the last part of a file name, without what a URL or a disk would stumble over."""
    last = re.split(r"[/\\]", (name or "").strip())[-1]
    kept = re.sub(r"[^\w.() +-]", "_", last).strip(" .")
    if len(kept) > MAX_NAME:
        stem, dot, ending = kept.rpartition(".")
        ending = f"{dot}{ending}" if stem and len(ending) <= 10 else ""
        kept = kept[: MAX_NAME - len(ending)] + ending
    return kept or "upload.bin"


async def receive(services: Services, request: Request, upload: Upload) -> FileRecord:
    """Store the request's body as the file, once; raise 403 when it is there already."""
    if await services.store.get_file(upload.id) is not None:
        raise _bad(403, "This upload address has been used already.")
    with_limit = _check_length(request, services.settings.max_upload_bytes)
    try:
        size = await services.files.put(
            upload.path,
            body_of(request),
            max_bytes=with_limit,
            content_type=upload.content_type,
            name=upload.name,
        )
    except FilesError as error:
        raise refused(error) from None
    return await write_down(services, upload, size)


async def receive_part(services: Services, request: Request, upload: Upload, number: str) -> str:
    """Store one part of the file and return its etag."""
    if not (number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= MAX_PARTS):
        raise RequestError("bad_request", f"The part number must be 1 to {MAX_PARTS}.")
    limit = _check_length(request, services.settings.max_upload_bytes)
    digest = hashlib.md5(usedforsecurity=False)

    async def hashed() -> AsyncIterator[bytes]:
        async for chunk in body_of(request):
            digest.update(chunk)
            yield chunk

    # the name of a part holds its etag, which is known when the part is here
    waiting = f"{PARTS_FOLDER}/{upload.id}/{int(number)}-{uuid.uuid4().hex}.new"
    try:
        await services.files.put(waiting, hashed(), max_bytes=limit)
        await services.files.rename(waiting, part_path(upload, int(number), digest.hexdigest()))
    except FilesError as error:
        raise refused(error) from None
    return digest.hexdigest()


def part_path(upload: Upload, number: int, etag: str) -> str:
    return f"{PARTS_FOLDER}/{upload.id}/{number}-{etag}"


async def complete(services: Services, upload: Upload, body: Any) -> FileRecord:
    """Join the parts in order of their numbers; the same call again answers the same."""
    known = await services.store.get_file(upload.id)
    if known is not None:
        return known
    paths = [part_path(upload, number, etag) for number, etag in read_parts(body)]
    files = services.files
    try:
        total = sum([await files.size(path) for path in paths])
        if total > services.settings.max_upload_bytes:
            raise too_large(services.settings.max_upload_bytes)

        async def joined() -> AsyncIterator[bytes]:
            for path in paths:
                async for chunk in files.read(path):
                    yield chunk

        size = await files.put(
            upload.path, joined(), content_type=upload.content_type, name=upload.name
        )
    except FileMissing:
        raise RequestError(
            "bad_request", "A part is missing or has another etag. Send it again."
        ) from None
    except FilesError as error:
        raise refused(error) from None
    record = await write_down(services, upload, size)
    async for part in files.list(f"{PARTS_FOLDER}/{upload.id}"):
        await files.delete(part.path)
    return record


def read_parts(body: Any) -> list[tuple[int, str]]:
    """Return (number, etag) in order from a list that may come in any; raise 400."""
    parts = body.get("parts") if isinstance(body, dict) else None
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        raise RequestError("bad_request", f"`parts` must be a list of 1 to {MAX_PARTS} parts.")
    found: dict[int, str] = {}
    for part in parts:
        number = part.get("partNumber") if isinstance(part, dict) else None
        etag = part.get("etag") if isinstance(part, dict) else None
        bare = etag.strip().strip('"').lower() if isinstance(etag, str) else ""
        if not isinstance(number, int) or isinstance(number, bool):
            number = 0
        if not 1 <= number <= MAX_PARTS or not _ETAG.fullmatch(bare):
            raise RequestError(
                "bad_request", "Each of `parts` needs its partNumber and the etag it was given."
            )
        if number in found:
            raise RequestError("bad_request", f"Part {number} is listed twice.")
        found[number] = bare
    return sorted(found.items())


async def write_down(
    services: Services, upload: Upload, size: int, kind: str = "upload"
) -> FileRecord:
    """Record a stored file, so that it can be read."""
    now = time.time()
    expires, acl = expiry_and_acl(upload.lifecycle, services.settings.upload_lifetime_s, now)
    record = FileRecord(
        id=upload.id,
        path=upload.path,
        content_type=upload.content_type,
        size=size,
        name=upload.name,
        created=now,
        expires=expires,
        acl=acl,
        owner=upload.owner,
        kind=kind,
    )
    await services.store.add_file(record)
    return record


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """Yield the body; raise 408 when nothing comes for a minute, 499 when the client hangs up."""
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _bad(408, f"Nothing of the upload came for {_IDLE_S:g} seconds.") from None
        except ClientDisconnect:
            raise RequestError("client_disconnected", "The client hung up while it sent.") from None
        yield chunk


def refused(error: FilesError) -> WireError:
    """Turn a failure of the file store into an answer."""
    if isinstance(error, TooManyBytes):
        return _bad(413, f"{error.message} {error.hint}".strip())
    if isinstance(error, FileMissing):
        return WireError(404, {"detail": "There is no such file."})
    full = isinstance(error, StorageFull)
    reason = "has no space left for files" if full else "cannot store files now"
    return RequestError(
        "runner_connection_error",
        f"The server {reason}. Try again later.",
        headers={"Retry-After": "30" if full else "5"},
    )


def too_large(limit: int) -> WireError:
    return _bad(413, f"The file has more than {limit} bytes. Send a smaller file.")


def _bad(status: int, detail: str) -> WireError:
    return WireError(status, {"detail": detail, "error_type": "bad_request"})


def _check_length(request: Request, limit: int) -> int:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise too_large(limit)
    return limit
