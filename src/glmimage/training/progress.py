"""What a training says while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Encoded:
    """Say of how many pictures `what` is known."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """Say what a step did. loss: of this step's pictures. seconds: it took."""

    part: str
    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Saved:
    """Say that adapters and the state to go on from are on disk. validation: loss, if measured."""

    part: str
    step: int
    path: Path
    validation: float | None


TrainingEvent = Encoded | Stepped | Saved
