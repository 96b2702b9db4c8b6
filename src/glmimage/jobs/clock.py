"""Notice what ends leases without anybody's silence: a clock put forward, a store that was away."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

NOTICED_S = 0.5
"""A smaller difference between two clocks is the way the question took."""
LONGEST_GRACE_S = 60.0


class Trust(NamedTuple):
    """Whether the store's clock can be gone by, and whether leases that ran out were given up."""

    clock: bool
    leases: bool


class ClockWatch:
    """Compare the store's clock with this machine's monotonic one, from round to round."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._store_time = 0.0
        self._grace_until = 0.0
        self._worked: float | None = None
        self._back_since = 0.0

    async def trust(self, ask: Callable[[], Awaitable[float]], lease_s: float) -> Trust:
        """Ask for the store's time; say what to make of it. Tell `worked` when the round is done.

        After a jump workers get time to renew their leases: a jump by J ends leases shorter than
        J, and each is renewed after a fifth of its length. So they do when no round has been done
        for long: the store may have been away for them too. Rounds come twice a lease or oftener.
        """
        asked = time.monotonic()
        store_time = await ask()
        answered = time.monotonic()
        if self._asked is not None:
            jump_s = (store_time - self._store_time) - (answered - self._asked)
            if jump_s > NOTICED_S:
                self._grace_until = answered + min(jump_s / 4 + 1.0, LONGEST_GRACE_S)
        self._asked, self._store_time = asked, store_time
        gap_s = math.inf if self._worked is None else answered - self._worked
        if self._worked is None or gap_s > lease_s / 2 + 1.0:
            self._back_since = answered
        clock = answered >= self._grace_until
        # a worker beats five times a lease, and a second after a beat that has failed
        return Trust(clock, clock and answered - self._back_since >= lease_s / 5 + 2.0)

    def worked(self) -> None:
        """Note that a round has been done: the store took what was written."""
        self._worked = time.monotonic()
