"""What every file store does, and how one is opened from its address."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from ..errors import InvalidSettings
from .errors import FileMissing, TooManyBytes

Content = bytes | AsyncIterable[bytes]

_SEGMENT = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9._=-]{0,199}")
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileInfo:
    """Describe a stored file. modified: unix seconds; content_type: as a bucket tells it."""

    path: str
    size: int
    modified: float
    content_type: str | None = None


class FileStore(Protocol):
    """Keep files under relative paths such as `generated/ab/name.png`; a file is whole or absent.

    All methods raise FilesError or one of its kinds, and ValueError for a path that is none.
    """

    async def put(
        self,
        path: str,
        content: Content,
        *,
        max_bytes: int | None = None,
        content_type: str | None = None,
        name: str | None = None,
    ) -> int:
        """Store the content, replacing what was there, and return its size in bytes.

        content_type, name: what a bucket tells those who read from it. Raise TooManyBytes over the
        limit, StorageFull; what was there before then stays.
        """

    def read(self, path: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield bytes [start, end) in chunks; raise FileMissing before the first."""

    async def info(self, path: str) -> FileInfo:
        """Return size and age; raise FileMissing."""

    async def size(self, path: str) -> int:
        """Return the size in bytes; raise FileMissing."""

    async def rename(self, path: str, target: str) -> None:
        """Give a file another path, replacing what was there; raise FileMissing."""

    async def delete(self, path: str) -> bool:
        """Remove the file; False when there was none."""

    def list(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """Yield every file whose path begins with the folder `prefix`."""

    async def remove_unfinished(self, older_than_s: float) -> int:
        """Remove what writers that died have left behind, and return how much."""

    async def close(self) -> None:
        """Release connections."""


@runtime_checkable
class SigningStore(FileStore, Protocol):
    """Hand out addresses at which others reach single files for a while."""

    origin: str
    """Scheme and host of these addresses."""

    async def sign(self, method: Literal["GET", "PUT"], path: str, lifetime_s: float) -> str:
        """Return an address that lets whoever knows it read the file, or store it."""


def open_file_store(address: str | Path) -> FileStore:
    """Open a folder, which is made when missing, or `s3://bucket/prefix?endpoint=...&region=...`.

    Raise InvalidSettings.
    """
    text = str(address)
    if text.startswith("s3://"):
        from .s3 import S3Files

        return S3Files.from_url(text)
    if "://" in text:
        raise InvalidSettings(
            f"{text!r} is no place for files.", hint="Name a folder, or s3://bucket/prefix."
        )
    from .local import LocalFiles

    return LocalFiles(Path(text))


async def read_all(store: FileStore, path: str) -> bytes:
    """Return a whole file; raise FileMissing."""
    return b"".join([chunk async for chunk in store.read(path)])


def check_path(path: str) -> str:
    """Return a path that cannot leave the store; raise ValueError."""
    if not path or not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"{path!r} is not a path of a stored file")
    return path


def missing(path: str) -> FileMissing:
    return FileMissing(f"There is no file {path!r}.")


async def chunks_of(content: Content, max_bytes: int | None) -> AsyncIterator[bytes]:
    """Yield the content in chunks of about 1 MiB; raise TooManyBytes as soon as it is too long."""
    if isinstance(content, bytes | bytearray | memoryview):
        check_size(len(content), max_bytes)
        for start in range(0, len(content), CHUNK_BYTES):
            yield bytes(content[start : start + CHUNK_BYTES])
        return
    total, waiting = 0, bytearray()
    async for chunk in content:
        total += len(chunk)
        check_size(total, max_bytes)
        waiting += chunk
        if len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def check_size(size: int, max_bytes: int | None) -> None:
    """Raise TooManyBytes over the limit."""
    if max_bytes is not None and size > max_bytes:
        raise TooManyBytes(
            f"The file has more than {max_bytes} bytes.", hint="Send a smaller file."
        )
