"""What happened in this process, by kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..telemetry.meters import Meters


@dataclass(frozen=True)
class Counters:
    """Count outcomes of webhook attempts, what the sweeper has removed, and the rest in meters."""

    webhooks: Counter[str] = field(default_factory=Counter)
    swept: Counter[str] = field(default_factory=Counter)
    meters: Meters = field(default_factory=lambda: Meters("gateway"))
