"""What a worker tells of itself: numbers for the metrics, and how long its stages took."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.figures import Figures
from ..jobs import Prior
from ..policy.picture_check import PictureChecker
from ..telemetry.meters import Meters, Snapshot
from ..types import TokenCounts

GpuMemory = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class StageDone:
    """Tell how long a picture was in a stage: prior, denoise or decode. Times: unix seconds."""

    stage: str
    image_index: int
    began: float
    ended: float


@dataclass(frozen=True)
class Written:
    """Carry all priors of a job, in order. counts: tokens read and written for each picture."""

    priors: tuple[Prior, ...]
    counts: TokenCounts


class Report:
    """Gather the numbers; the painting thread and the store's loop both add to them."""

    def __init__(self, checker: PictureChecker) -> None:
        self.meters = Meters("worker")
        for outcome in ("hit", "miss"):  # there from the start: the first one already is a rise
            self.meters.count("glmimage_prior_cache_total", 0, outcome=outcome)
        self.gpu_memory: GpuMemory = dict
        self._checker = checker
        self._told = [0, 0]

    def take(self, figures: Figures) -> None:
        """Add what the engine has done."""
        meters = self.meters
        for stage, seconds in figures.busy_s.items():
            meters.count("glmimage_busy_seconds_total", seconds, stage=stage)
        for stage, sizes in (("prior", figures.rows), ("denoise", figures.pictures)):
            for size, times in sizes.items():
                meters.observe("glmimage_batch_size", size, times, stage=stage)
        for gained, times in figures.gains.items():
            meters.observe("glmimage_acceptance_length", gained, times)
            meters.count("glmimage_prior_tokens_total", gained * times)
        steps = sum(size * times for size, times in figures.pictures.items())
        meters.count("glmimage_denoise_steps_total", steps)

    def snapshot(self, num_jobs: int) -> Snapshot:
        """Return all numbers as they are now."""
        meters, checker = self.meters, self._checker
        meters.set("glmimage_jobs_in_hand", num_jobs)
        meters.set("glmimage_worker_memory_bytes", resident_bytes())
        for kind, size in self.gpu_memory().items():
            meters.set("glmimage_gpu_memory_bytes", size, kind=kind)
        now = [checker.num_checked, checker.num_flagged]
        for name, new, old in zip(("checked", "flagged"), now, self._told, strict=True):
            meters.count(f"glmimage_pictures_{name}_total", new - old)
        self._told = now
        return meters.snapshot()


def resident_bytes() -> int:
    """Return how much main memory this process takes; where that is not told, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
