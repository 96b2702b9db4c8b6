"""How many of the live jobs wait, and since when, by stage and priority."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import NamedTuple

from ..jobs import Job


class Line(NamedTuple):
    """Where jobs stand that wait for the same stage with the same priority."""

    stage: str
    priority: str


LINES = tuple(
    Line(stage, priority)
    for stage in ("prepare", "prior", "decode")
    for priority in ("normal", "low")
)


class OpenJobs:
    """Keep the counts as jobs change, so that a scrape reads them without walking the queue."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._line_of: dict[str, tuple[Line, bool]] = {}
        self.waiting: Counter[Line] = Counter()
        self.running: Counter[str] = Counter()
        self._oldest: dict[Line, list[tuple[float, str]]] = {line: [] for line in LINES}

    def put(self, job: Job) -> None:
        """Take over a job as it is now."""
        before = self._line_of.pop(job.id, None)
        if before is not None:
            self._count(*before, -1)
        if job.ended:
            return
        here = Line(job.stage, job.priority), job.worker_id is None
        self._line_of[job.id] = here
        self._count(*here, 1)
        if here[1] and here != before:
            heapq.heappush(self._oldest[here[0]], (job.created_at, job.id))

    def oldest(self, line: Line) -> float | None:
        """Return when the oldest job that waits there came; None when none waits."""
        heap = self._oldest[line]
        while heap and self._line_of.get(heap[0][1]) != (line, True):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _count(self, line: Line, waits: bool, step: int) -> None:
        if waits:
            self.waiting[line] += step
        else:
            self.running[line.stage] += step
