"""What happened in this process beside the requests, by kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counters:
    """Count outcomes of webhook attempts, and what the sweeper has removed."""

    webhooks: Counter[str] = field(default_factory=Counter)
    swept: Counter[str] = field(default_factory=Counter)
