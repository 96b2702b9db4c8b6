"""Notice that the clock by which leases end was put forward: nobody fell silent by that."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

NOTICED_S = 0.5
"""A smaller difference between two clocks is the way the question took."""
LONGEST_GRACE_S = 60.0


class ClockWatch:
    """Compare the store's clock with this machine's monotonic one, from call to call."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._store_time = 0.0
        self._grace_until = 0.0

    async def trusts(self, ask: Callable[[], Awaitable[float]]) -> bool:
        """Ask for the store's time; say whether leases that have run out were not renewed.

        After a jump workers get time to renew them: a jump by J ends leases shorter than J, and
        each is renewed after a fifth of its length.
        """
        asked = time.monotonic()
        store_time = await ask()
        answered = time.monotonic()
        if self._asked is not None:
            jump_s = (store_time - self._store_time) - (answered - self._asked)
            if jump_s > NOTICED_S:
                self._grace_until = answered + min(jump_s / 4 + 1.0, LONGEST_GRACE_S)
        self._asked, self._store_time = asked, store_time
        return answered >= self._grace_until
