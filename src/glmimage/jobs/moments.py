"""Count what is written on each topic, for those who wait in one event loop."""

from __future__ import annotations

import asyncio
from typing import get_args

from .database import Topic

EVERYTHING = "everything"


class Moments:
    """A number for each topic, which `tell` raises."""

    def __init__(self) -> None:
        self._numbers: dict[Topic, int] = dict.fromkeys(get_args(Topic), 0)
        self._written = {topic: asyncio.Event() for topic in self._numbers}

    def __getitem__(self, topic: Topic) -> int:
        return self._numbers[topic]

    def tell(self, topic: str) -> None:
        """Wake those who wait for a topic or for any; everybody, if it is none of the topics."""
        known = topic in self._numbers
        for woken in self._numbers:
            if woken in ("change", topic) or not known:
                self._numbers[woken] += 1
                written, self._written[woken] = self._written[woken], asyncio.Event()
                written.set()

    async def wait(self, topic: Topic, moment: int, timeout_s: float) -> bool:
        """Wait until the number is another than `moment`; False when the time is up first."""
        if self._numbers[topic] != moment:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._written[topic].wait()
        except TimeoutError:
            return False
        return True
