"""What the engine has done, for whoever reports it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Count since they were last taken.

    gains: tokens that a row gained in a pass of the prior, how often. rows: rows that shared a
    pass. pictures: pictures that shared a denoise step. busy_s: time in prior, denoise and decode.
    """

    gains: Counter[int] = field(default_factory=Counter)
    rows: Counter[int] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)
    busy_s: dict[str, float] = field(default_factory=dict)

    def worked(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.busy_s[stage] = self.busy_s.get(stage, 0.0) + seconds

    def take(self) -> Figures:
        """Return what was counted, and count from nothing again."""
        taken = Figures(self.gains, self.rows, self.pictures, self.busy_s)
        self.gains, self.rows = Counter(), Counter()
        self.pictures, self.busy_s = Counter(), {}
        return taken
