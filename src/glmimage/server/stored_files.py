"""How much is stored, asked now and then only: the question reads every file's row."""

from __future__ import annotations

import time

from ..jobs import JobStore

KINDS = ("output", "upload", "reference", "preview")


class StoredFiles:
    """Remember the answer for `remembered_s`."""

    remembered_s = 60.0

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._asked: float | None = None
        self._figures: dict[str, tuple[int, int]] = {}

    async def figures(self) -> dict[str, tuple[int, int]]:
        """Return (number, bytes) by kind."""
        now = time.monotonic()
        if self._asked is None or now - self._asked >= self.remembered_s:
            self._figures = await self._store.file_figures()
            self._asked = now
        return dict.fromkeys(KINDS, (0, 0)) | self._figures
