"""Files in an S3-compatible bucket, through obstore; a stored object is whole or absent there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError

from ..errors import InvalidSettings
from .errors import FilesError, StorageFull, StorageUnavailable
from .headers import disposition
from .store import Content, FileInfo, check_path, chunks_of, missing

if TYPE_CHECKING:
    from obstore.store import S3Store

MAX_RETRIES = 4
ANSWER_S = 60.0
"""A bucket that has been silent for so long does not answer any more."""
_OPTIONS = ("endpoint", "region", "path_style", "public_endpoint")
_ANY_KEY = {"access_key_id": "a", "secret_access_key": "a"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Files:
    """Keep files in one bucket below an optional prefix."""

    def __init__(self, store: S3Store, signer: S3Store, name: str, origin: str) -> None:
        self._store = store
        self._signer = signer
        self._name = name
        self.origin = origin

    @classmethod
    def from_url(cls, url: str) -> S3Files:
        """Open s3://bucket/prefix?endpoint=...&region=...&path_style=true; raise InvalidSettings.

        public_endpoint: where clients reach the bucket, if not at `endpoint`. Credentials come from
        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the machine.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown or not _BUCKET.fullmatch(parts.netloc):
            what = f"the option {unknown[0]!r}" if unknown else f"the bucket name {parts.netloc!r}"
            raise InvalidSettings(
                f"{url!r} is not understood: {what}.",
                hint=f"Write s3://bucket/prefix; options are {', '.join(_OPTIONS)}.",
            )
        public = options.get("public_endpoint", options.get("endpoint"))
        try:
            store = _open(parts.netloc, parts.path, options, options.get("endpoint"))
            signer = _open(parts.netloc, parts.path, options, public)
            # whoever signs: what comes before the path is the same
            stranger = _open(parts.netloc, "", options, public, **_ANY_KEY)
            address = urlsplit(obstore.sign(stranger, "GET", "a", timedelta(seconds=1)))
        except (BaseError, ValueError) as error:
            raise InvalidSettings(f"{url!r} cannot be opened: {_first_line(error)}.") from None
        origin = f"{address.scheme}://{address.netloc}"
        return cls(store, signer, f"s3://{parts.netloc}", origin)

    async def put(
        self,
        path: str,
        content: Content,
        *,
        max_bytes: int | None = None,
        content_type: str | None = None,
        name: str | None = None,
    ) -> int:
        size, failure = 0, None

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size, failure
            try:
                async for chunk in chunks_of(content, max_bytes):
                    size += len(chunk)
                    yield chunk
            except Exception as error:  # not the bucket's fault, but the content's own
                failure = error
                raise

        attributes: Any = None
        if content_type is not None:
            attributes = {"Content-Type": content_type}
            if name is not None:
                attributes["Content-Disposition"] = disposition(content_type, name)
        data: Any = counted()
        if isinstance(content, bytes):
            data = b"".join([chunk async for chunk in data])
        # a stream may be as slow as whoever sends it
        limit = ANSWER_S if isinstance(content, bytes) else None
        try:
            async with asyncio.timeout(limit):
                await obstore.put_async(self._store, check_path(path), data, attributes=attributes)
        except (BaseError, OSError) as error:
            if failure is not None:
                raise failure from None
            if isinstance(error, NotFoundError | FileNotFoundError):
                raise self._unavailable("there is no such bucket", path) from None
            raise self._failure(error, path) from None
        return size

    async def read(self, path: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if start or end is not None:
            # a range that begins at the end is an error to S3, and nothing to the caller
            size = await self.size(path)
            end = size if end is None else min(end, size)
            if end <= start:
                return
        options: Any = None if end is None else {"range": (start, end)}
        try:
            async with asyncio.timeout(ANSWER_S):
                result = await obstore.get_async(self._store, check_path(path), options=options)
            chunks = aiter(result.stream())
            while True:
                async with asyncio.timeout(ANSWER_S):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise self._failure(error, path) from None

    async def info(self, path: str) -> FileInfo:
        try:
            async with asyncio.timeout(ANSWER_S):
                # `head` itself does not tell the content type
                found = await obstore.get_async(
                    self._store, check_path(path), options={"head": True}
                )
        except (BaseError, OSError) as error:
            raise self._failure(error, path) from None
        modified = found.meta["last_modified"].timestamp()
        content_type = found.attributes.get("Content-Type")
        return FileInfo(path, int(found.meta["size"]), modified, content_type)

    async def size(self, path: str) -> int:
        return (await self.info(path)).size

    async def rename(self, path: str, target: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await obstore.rename_async(self._store, check_path(path), check_path(target))
        except (BaseError, OSError) as error:
            raise self._failure(error, path) from None

    async def delete(self, path: str) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await obstore.head_async(self._store, check_path(path))
                await obstore.delete_async(self._store, path)
        except (FileNotFoundError, NotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise self._failure(error, path) from None
        return True

    async def list(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        place = check_path(prefix) if prefix else None
        try:
            async for batch in obstore.list(self._store, place):
                for found in batch:
                    modified = found["last_modified"].timestamp()
                    yield FileInfo(str(found["path"]), int(found["size"]), modified)
        except (BaseError, OSError) as error:
            raise self._failure(error, prefix) from None

    async def sign(self, method: Literal["GET", "PUT"], path: str, lifetime_s: float) -> str:
        lifetime = timedelta(seconds=max(1, int(lifetime_s)))
        try:
            async with asyncio.timeout(ANSWER_S):  # a machine's credentials may have to be fetched
                return await obstore.sign_async(self._signer, method, check_path(path), lifetime)
        except (BaseError, OSError) as error:
            raise self._failure(error, path) from None

    async def remove_unfinished(self, older_than_s: float) -> int:
        """Remove nothing: a bucket's own lifecycle rule aborts unfinished multipart uploads."""
        return 0

    async def close(self) -> None:
        """Do nothing: obstore closes its connections itself."""

    def _failure(self, error: BaseException, path: str) -> FilesError:
        if isinstance(error, FileNotFoundError | NotFoundError):
            return missing(path)
        reason = _first_line(error)
        if "QuotaExceeded" in reason or "InsufficientStorage" in reason:
            return StorageFull(f"No space left in {self._name} to store {path!r}.")
        return self._unavailable(reason, path)

    def _unavailable(self, reason: str, path: str) -> StorageUnavailable:
        return StorageUnavailable(f"{self._name} cannot be used for {path!r}: {reason}.")


def _open(
    bucket: str,
    prefix: str,
    options: dict[str, str],
    endpoint: str | None,
    **credentials: str,
) -> S3Store:
    from obstore.store import S3Store

    config: dict[str, Any] = {**credentials}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if "region" in options:
        config["region"] = options["region"]
    if "path_style" in options:
        config["virtual_hosted_style_request"] = options["path_style"].lower() != "true"
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        client_options={
            "allow_http": (endpoint or "").startswith("http://"),
            "connect_timeout": "10s",
            "timeout": "3600s",  # of a whole download, as slow as its reader
        },
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=30)},
        **config,
    )


def _first_line(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
