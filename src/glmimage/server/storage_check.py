"""Can files be stored now? Found out by storing one, and remembered for a while."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from ..files import FilesError, FileStore

PROBE = "probe"
"""The path of a file that is there for an instant only."""
REMEMBERED_S = 10.0


class StorageCheck:
    """Try the file store, once for all who ask meanwhile."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self._trying: asyncio.Task[str | None] | None = None
        self._tried = 0.0

    async def reason(self) -> str | None:
        """Return why no file can be stored; None when one can."""
        over = time.monotonic() - self._tried >= REMEMBERED_S
        if self._trying is None or (self._trying.done() and over):
            self._trying = asyncio.create_task(self._try())
        # who asks may leave, and the next one waits for the same try
        return await asyncio.shield(self._trying)

    async def _try(self) -> str | None:
        try:
            await self._files.put(PROBE, b"probe")
            with suppress(FilesError):  # some may store and not delete
                await self._files.delete(PROBE)
        except FilesError as error:
            return f"No file can be stored. {error}"
        finally:
            self._tried = time.monotonic()
        return None
