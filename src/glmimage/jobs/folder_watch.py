"""Be told by the kernel that a file of a folder was written to, where it can tell."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

_MODIFY, _CREATE = 0x2, 0x100  # sys/inotify.h; the flags of inotify_init1 are those of open
_EVENTS_BYTES = 16 * 1024


class FolderWatch:
    """Wake those who sleep when a file directly in `folder` is written to, by any process here.

    works: False on a system without inotify, or when its limits are reached; then `sleep` only
    sleeps. Belongs to one event loop.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = _open_inotify(folder)
        self._sleepers: set[asyncio.Future[None]] = set()

    @property
    def works(self) -> bool:
        return self._descriptor is not None

    def heard(self) -> bool:
        """Forget what was written while nobody slept; say whether anything was."""
        if self._descriptor is None or self._sleepers:
            return False
        found = False
        with suppress(BlockingIOError):
            while os.read(self._descriptor, _EVENTS_BYTES):
                found = True
        return found

    async def sleep(self, seconds: float) -> bool:
        """Sleep until something is written; False when the time is up first."""
        if self._descriptor is None:
            await asyncio.sleep(seconds)
            return False
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        if not self._sleepers:
            loop.add_reader(self._descriptor, self._wake)
        self._sleepers.add(sleeper)
        try:
            await asyncio.wait((sleeper,), timeout=seconds)
            return sleeper.done()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.discard(sleeper)
                if not self._sleepers and self._descriptor is not None:
                    loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._descriptor is not None:
            self._wake()
            os.close(self._descriptor)
            self._descriptor = None

    def _wake(self) -> None:
        """Wake all; until somebody sleeps again the kernel only takes notes."""
        if self._descriptor is not None and self._sleepers:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()
        self.heard()


def _open_inotify(folder: Path) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _MODIFY | _CREATE) < 0:
            os.close(descriptor)
            return None
    except (OSError, AttributeError):
        return None
    return descriptor
