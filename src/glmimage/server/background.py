"""What runs beside the requests: started together, restarted after a failure, stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ..jobs import StoreUnavailable
from .services import Services

Duty = Callable[[Services], Awaitable[None]]
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STORE_PAUSE_S = 1.0
"""Before the store is asked again after it has failed; it comes back for all at once."""
log = logging.getLogger(__name__)


class Background:
    """Run duties, each of which goes on until it is cancelled."""

    def __init__(self, services: Services, duties: Sequence[Duty]) -> None:
        self._services, self._duties = services, duties
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep_up(duty), name=duty.__name__) for duty in self._duties
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _keep_up(self, duty: Duty) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await duty(self._services)
            except StoreUnavailable as error:
                log.warning("%s waits for the database: %s", duty.__name__, error)
                await asyncio.sleep(STORE_PAUSE_S)
                continue
            except Exception:
                log.exception("%s failed; it starts again in %.1f s", duty.__name__, pause_s)
            if loop.time() - began > 2 * LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
