"""How the threads of PyTorch wait for each other on a CPU: they spin, or they sleep."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SPIN_COUNT = "GOMP_SPINCOUNT"
"""libgomp reads it once, when PyTorch is loaded; its default is to spin."""
LOOK_S = 0.1
SPARE = 0.5
"""Processors that others may keep busy beside our threads: a machine is never quite idle."""
PROCESSOR_TIMES = Path("/proc/stat")


def sleep_where_others_work() -> None:
    """Let threads that wait sleep if other processes keep the processors busy right now.

    To be called before PyTorch is imported; what the environment says stays. Beside one other busy
    process on two cores 20 steps of nano's decoder took 9.5 s spinning and 5.4 s sleeping, alone
    2.8 and 3.4 s.
    """
    if SPIN_COUNT in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return
    # a system that does not tell has another OpenMP
    with suppress(OSError, ValueError, IndexError):
        busy, total = _busy_processors()
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
        if busy + ours > total + SPARE:
            os.environ[SPIN_COUNT] = "0"


def _busy_processors() -> tuple[float, int]:
    """Return how many processors were busy during a short sleep, and how many there are."""
    before, _ = _read()
    time.sleep(LOOK_S)
    after, total = _read()
    spent = [b - a for a, b in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]  # and waiting for a disk
    return total * (1 - idle / max(sum(spent), 1)), total


def _read() -> tuple[list[int], int]:
    lines = PROCESSOR_TIMES.read_text().splitlines()
    total = sum(line.startswith("cpu") for line in lines) - 1
    return [int(ticks) for ticks in lines[0].split()[1:9]], total
