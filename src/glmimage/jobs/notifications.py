"""Let processes of one machine tell each other what they wrote, as NOTIFY does on PostgreSQL.

There is a file for each topic; opening and closing it writes nothing, needs no room on the disk,
and the kernel tells all who watch the folder (inotify).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .moments import EVERYTHING

# sys/inotify.h; the flags of inotify_init1 are those of open
_CLOSE_WRITE, _OVERFLOW, _IGNORED = 0x8, 0x4000, 0x8000
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_EVENTS_BYTES = 16 * 1024


class Notifications:
    """Send and receive topics by the files of `folder`, which is made.

    received: called in the running event loop with each topic, `EVERYTHING` where some were lost.
    works: False on a system without inotify, where its limits are reached, where it does not tell
    of this folder, or when the folder is gone; then nothing is received any more.
    """

    def __init__(self, folder: Path, received: Callable[[str], None]) -> None:
        self._folder, self._received = folder, received
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._descriptor = _open_inotify(folder)
        if self._descriptor is None:
            return
        self.send([EVERYTHING])
        if EVERYTHING in self._read():
            asyncio.get_running_loop().add_reader(self._descriptor, self._receive)
        else:
            self.close()

    @property
    def works(self) -> bool:
        return self._descriptor is not None

    def send(self, topics: Iterable[str]) -> None:
        """Tell all processes, this one too; from any thread. Not to be told is no failure."""
        for topic in topics:
            with suppress(OSError):
                os.close(os.open(self._folder / topic, os.O_WRONLY | os.O_CREAT, 0o600))

    def close(self) -> None:
        """Receive nothing any more."""
        if self._descriptor is not None:
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _receive(self) -> None:
        found = self._read()
        if EVERYTHING in found and not self._folder.is_dir():
            self.close()
        for topic in found:
            self._received(topic)

    def _read(self) -> set[str]:
        """Return what was sent and not read before."""
        assert self._descriptor is not None
        found: set[str] = set()
        with suppress(BlockingIOError):
            while events := os.read(self._descriptor, _EVENTS_BYTES):
                found.update(_topics(events))
        return found


def _topics(events: bytes) -> Iterator[str]:
    at = 0
    while at < len(events):
        _, mask, _, length = _HEAD.unpack_from(events, at)
        at += _HEAD.size + length
        name = events[at - length : at].rstrip(b"\0")
        yield EVERYTHING if mask & (_OVERFLOW | _IGNORED) else os.fsdecode(name)


def _open_inotify(folder: Path) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _CLOSE_WRITE) < 0:
            os.close(descriptor)
            return None
    except (OSError, AttributeError):
        return None
    return descriptor
