"""References of a request: from data URIs and own files at once, from elsewhere in preparation."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ..files import FileMissing
from ..files.lifecycle import may_read
from ..files.store import read_all
from ..jobs import FileRecord
from ..policy.errors import FetchFailed, PolicyError
from ..policy.fetch import Fetched, fetch_public, read_data_uri, too_large
from ..policy.references import check_reference
from .arrivals import find_file
from .fal.errors import ModelError, detail_item
from .routing import host_name, locate
from .services import Services

KEPT_S = 7 * 86400.0
"""A fetched reference outlives any wait in the queue, and the retry by hand after it."""
_OWN_PATH = re.compile(r"/files/b/([^/?#]+)(?:/[^?#]*)?")
MAX_SHOWN = 80


@dataclass(frozen=True)
class Reference:
    """Hold one checked reference. identity: the same for the same picture."""

    file_id: str
    identity: str


async def resolve_now(
    services: Services, urls: Sequence[str], job_id: str, caller_id: str | None, origin: str
) -> list[Reference | None]:
    """Store or look up the references that need no download; None for each of the others.

    origin: scheme and host that the caller used for this server. Raise ModelError.
    """
    found: list[Reference | None] = []
    for index, url in enumerate(urls):
        try:
            found.append(await _resolve(services, url, job_id, caller_id, origin))
        except PolicyError as error:
            raise refused(error, index, url) from None
    return found


async def fetch_missing(
    services: Services, urls: Sequence[str], known: Sequence[str], job_id: str
) -> list[Reference]:
    """Download the references that `known` has no file for ("" each); raise ModelError."""

    async def fetch(index: int) -> Reference:
        if known[index]:
            return Reference(known[index], f"file:{known[index]}")
        try:
            fetched = await fetch_public(
                urls[index],
                services.policy.reference_limits,
                services.policy.reference_guard,
            )
            return await _store(services, fetched, job_id, shorten(urls[index]))
        except PolicyError as error:
            raise refused(error, index, urls[index]) from None

    tasks = [asyncio.create_task(fetch(index)) for index in range(len(urls))]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def refused(error: PolicyError, index: int, url: str) -> ModelError:
    """Turn a refusal of the guard into fal's error at the place of the URL."""
    message = f"{error.message} {error.hint}".strip()
    return ModelError(
        [
            detail_item(
                error.code, message, ("body", "image_urls", index), error.context, shorten(url)
            )
        ]
    )


def shorten(url: str) -> str:
    """Return the URL as it may be shown and stored: without the bytes of a data URI."""
    if url[:5].lower() == "data:":
        head = url.partition(",")[0][:MAX_SHOWN]
        return f"{head},... ({len(url)} characters)"
    return url


def shorten_urls(body: dict[str, Any]) -> dict[str, Any]:
    """Return the input without the bytes of its data URIs."""
    urls = body.get("image_urls")
    if not isinstance(urls, list):
        return body
    return {**body, "image_urls": [shorten(url) for url in urls]}


async def _resolve(
    services: Services, url: str, job_id: str, caller_id: str | None, origin: str
) -> Reference | None:
    if url[:5].lower() == "data:":
        limit = services.policy.reference_limits.max_bytes
        fetched = await asyncio.to_thread(read_data_uri, url, limit)
        return await _store(services, fetched, job_id, "that was sent")
    file_id = own_file_id(url, services.addresses.all_own | {origin})
    if file_id is None:
        return None
    record = await find_file(services, file_id)
    if record is None or not _may_read(record, caller_id):
        if is_fal_host(url):
            return None  # a file that fal itself keeps
        raise FetchFailed(
            f"There is no file {url[:200]!r} on this server.", hint="It may have expired."
        )
    if record.kind == "upload":
        await _check_upload(services, record)
    return Reference(record.id, f"file:{record.id}")


async def _check_upload(services: Services, record: FileRecord) -> None:
    """Refuse an upload that is no usable picture; what we have painted or fetched is one."""
    limit = services.policy.reference_limits.max_bytes
    if record.size > limit:
        raise too_large(limit, f"The reference {record.name!r}")
    try:
        content = await read_all(services.files, record.path)
    except FileMissing:
        raise FetchFailed(f"The file {record.name!r} does not exist any more.") from None
    await check_reference(content, f"the reference {record.name!r}")


def own_file_id(url: str, origins: Set[str]) -> str | None:
    """Return the id in the URL of a file of this server, None for any other URL."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    if parts.scheme not in ("http", "https"):
        return None
    surface, path = locate(parts.netloc, parts.path)
    own = any(parts.netloc.lower() == urlsplit(origin).netloc.lower() for origin in origins)
    if surface != "cdn" or not (own or is_fal_host(url)):
        return None
    match = _OWN_PATH.fullmatch(path)
    return match[1] if match else None


def is_fal_host(url: str) -> bool:
    try:
        return locate(urlsplit(url.strip()).netloc, "/")[0] == "cdn"
    except ValueError:
        return False


def origin_of(services: Services, connection: HTTPConnection) -> str:
    """Return scheme and host by which the caller knows this server."""
    host = connection.headers.get("host", "")
    return f"https://{host}" if host_name(host) else services.addresses.own


def _may_read(record: FileRecord, caller_id: str | None) -> bool:
    if record.expires is not None and record.expires <= time.time():
        return False
    users = () if caller_id is None else (caller_id,)
    return may_read(record.acl, record.owner, users) == "allow"


async def _store(services: Services, fetched: Fetched, job_id: str, label: str) -> Reference:
    info = await check_reference(fetched.content, f"the reference {label}")
    file_id = str(uuid.uuid4())
    name = f"reference.{info.format}"
    path = f"references/{file_id[:2]}/{file_id}.{info.format}"
    size = await services.files.put(
        path, fetched.content, content_type=info.content_type, name=name
    )
    now = time.time()
    await services.store.add_file(
        FileRecord(
            id=file_id,
            path=path,
            content_type=info.content_type,
            size=size,
            name=name,
            created=now,
            expires=now + KEPT_S,
            acl={"default": "hide", "rules": []},
            kind="reference",
            job_id=job_id,
        )
    )
    return Reference(file_id, hashlib.sha256(fetched.content).hexdigest())
