"""One thread or all of them, by what has been faster lately."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

FIRST_WAIT = 256
"""Work units before the first trial; after each that was lost twice as many."""
LONGEST_WAIT = 64 * 1024
TRIAL_PASSES = 2
"""The best of them counts: threads that slept wake up in the first."""
SURPRISE, SLOW_PASSES = 2.0, 2
"""So many times slower than before in so many passes, and one thread is tried at once."""


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadChoice:
    """Run passes of many short operations on one thread or on all, whichever is faster.

    On an idle machine the threads share each operation; beside another busy process they wait for
    each other in every one (nano's prior, 16 rows, two cores: 1.45 times as fast, or a sixth). No
    figure of the machine tells beforehand, so the other number is tried now and then: rarely where
    it keeps losing, and from all to one thread at once when passes become slow.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.threads = 1
        self._all, self._clock = torch.get_num_threads(), clock
        self._cost: float | None = None  # seconds a unit with the chosen number, lately
        self._wait = self._left = FIRST_WAIT
        self._slow: list[float] = []
        self._trial: list[float] | None = None

    @contextmanager
    def chosen(self, work: int) -> Iterator[None]:
        """Compute `work` units, more than 0, on the chosen number of threads.

        A unit costs less in a larger pass; what is compared follows each other closely, and a
        choice that was wrong for that is tried again.
        """
        count = self.threads if self._trial is None else self._other
        began = self._clock()
        with cpu_threads(count):
            yield
        self._learn(work, (self._clock() - began) / work)

    @property
    def _other(self) -> int:
        return self._all if self.threads == 1 else 1

    def _learn(self, work: int, cost: float) -> None:
        if self._all == 1:
            return
        if self._trial is not None:
            self._trial.append(cost)
            if len(self._trial) == TRIAL_PASSES:
                self._decide(min(self._trial))
            return
        self._left -= work
        if self.threads > 1 and self._cost is not None and cost > SURPRISE * self._cost:
            self._slow.append(cost)
            if len(self._slow) < SLOW_PASSES:
                return  # by chance, perhaps
            self._cost, self._left = min(self._slow), 0
        else:
            self._cost = cost if self._cost is None else (self._cost + cost) / 2
        self._slow.clear()
        if self._left <= 0:
            self._trial = []

    def _decide(self, cost: float) -> None:
        assert self._cost is not None
        if cost < self._cost:
            self.threads, self._cost, self._wait = self._other, cost, FIRST_WAIT
        else:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._left, self._trial = self._wait, None
