"""Files in a folder: written under a temporary name, synced, renamed."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .errors import FileMissing, FilesError, StorageFull, StorageUnavailable
from .store import CHUNK_BYTES, Content, FileInfo, check_path, check_size, chunks_of, missing

T = TypeVar("T")
MOST_TOLD = 20
"""Of the places that cannot be read, lest a folder of thousands fills the log."""
log = logging.getLogger(__name__)
_UNFINISHED = ".part"  # with a dot in front as well, which no path of a file may have


class LocalFiles:
    """Keep files below one folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._told_of: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _failure(error, str(self.folder)) from None

    async def put(
        self,
        path: str,
        content: Content,
        *,
        max_bytes: int | None = None,
        content_type: str | None = None,
        name: str | None = None,
    ) -> int:
        target = self._target(path)
        temporary = target.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
        size = 0
        try:
            if isinstance(content, bytes):
                check_size(len(content), max_bytes)
                await _do(path, _write_whole, content, temporary, target)
                return len(content)
            file = await _do(path, _create, temporary)
            try:
                # a failure of the content itself is the caller's own
                async for chunk in chunks_of(content, max_bytes):
                    size += len(chunk)
                    await _do(path, file.write, chunk)
                await _do(path, _finish, file, temporary, target)
            finally:
                _close(file)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return size

    async def read(self, path: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        file = await _do(path, _open, self._target(path))
        with file:
            await _do(path, file.seek, start)
            position = start
            while end is None or position < end:
                wanted = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - position)
                chunk = await _do(path, file.read, wanted)
                if not chunk:
                    return
                position += len(chunk)
                yield chunk

    async def info(self, path: str) -> FileInfo:
        found = await _do(path, self._target(path).stat)
        return FileInfo(path, found.st_size, found.st_mtime)

    async def size(self, path: str) -> int:
        return (await self.info(path)).size

    async def rename(self, path: str, target: str) -> None:
        await _do(path, _rename, self._target(path), self._target(target))

    async def delete(self, path: str) -> bool:
        try:
            await _do(path, self._target(path).unlink)
        except FileMissing:
            return False
        return True

    async def list(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        folder = self._target(prefix) if prefix else self.folder
        files = self._walk(folder)
        while batch := await asyncio.to_thread(_take, files, 500):
            for path, found in batch:
                yield FileInfo(path, found.st_size, found.st_mtime)

    async def remove_unfinished(self, older_than_s: float) -> int:
        return await asyncio.to_thread(self._remove_unfinished, time.time() - older_than_s)

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _target(self, path: str) -> Path:
        return self.folder / check_path(path)

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        for file in self._names(folder):
            if not file.name.startswith("."):
                with self._left_out():
                    yield file.relative_to(self.folder).as_posix(), file.stat()

    def _names(self, folder: Path) -> Iterator[Path]:
        for place, folders, names in os.walk(folder, onerror=self._leave_out):
            folders.sort()
            for name in sorted(names):
                yield Path(place, name)

    def _remove_unfinished(self, before: float) -> int:
        removed = 0
        for file in self._names(self.folder):
            if file.name.startswith(".") and file.name.endswith(_UNFINISHED):
                with self._left_out():
                    if file.stat().st_mtime < before:
                        file.unlink()
                        removed += 1
        return removed

    @contextmanager
    def _left_out(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._leave_out(error)

    def _leave_out(self, error: OSError) -> None:
        """Go on without a file or folder, and say so the first time."""
        place = str(error.filename)
        gone = isinstance(error, FileNotFoundError)  # since its folder was read
        if gone or place in self._told_of or len(self._told_of) >= MOST_TOLD:
            return
        self._told_of.add(place)
        reason = (error.strerror or type(error).__name__).lower()
        log.warning("Cleaning up leaves out '%s': %s.", place, reason)


async def _do(path: str, work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work on a file in a thread; raise FilesError for what the disk says."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise _failure(error, path) from None


def _create(temporary: Path) -> BinaryIO:
    temporary.parent.mkdir(parents=True, exist_ok=True)
    return temporary.open("xb")


def _write_whole(content: bytes, temporary: Path, target: Path) -> None:
    file = _create(temporary)
    try:
        file.write(content)
        _finish(file, temporary, target)
    finally:
        _close(file)


def _finish(file: BinaryIO, temporary: Path, target: Path) -> None:
    file.flush()
    # content and size, which is all that reading needs; the time of change may be lost
    sync = getattr(os, "fdatasync", os.fsync)
    sync(file.fileno())
    os.replace(temporary, target)


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what is left in its buffer may not fit on the disk either
        file.close()


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def _take(
    files: Iterator[tuple[str, os.stat_result]], limit: int
) -> list[tuple[str, os.stat_result]]:
    return [item for _, item in zip(range(limit), files, strict=False)]


def _failure(error: OSError, path: str) -> FilesError:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return missing(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"No space left to store {path!r}.", hint="Make space on the disk.")
    reason = (error.strerror or type(error).__name__).lower()
    return StorageUnavailable(f"Cannot access {path!r}: {reason}.")
