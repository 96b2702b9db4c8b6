"""What a training of adapters is asked to do; a value that exists is a value that is valid."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InvalidSettings
from ..lora import PARTS
from ..types import MAX_SIDE, MIN_SIDE

MAX_RANK = 512
# What has no part in the numbers of a step, or may be changed between a stop and going on.
_FREE = frozenset({"folder", "out", "steps", "save_every", "resume", "checkpointing"})


@dataclass(frozen=True)
class LoraOptions:
    """Train adapters of `parts` on the pictures in `folder`, into `out`.

    steps, batch: for each part; accumulate: batches a step. alpha: None is the rank. resolution:
    a picture is scaled to about its square in px. drop: share of the decoder's pictures that are
    shown without tokens and glyphs, as guidance reads it. validation: share of the pictures that is
    kept out. checkpointing: compute activations again instead of keeping them; None lets the size
    of the network decide. prior_targets, decoder_targets: names of layers, or their ends.
    Raises InvalidSettings.
    """

    folder: Path
    out: Path
    parts: tuple[str, ...] = PARTS
    rank: int = 16
    alpha: float | None = None
    steps: int = 1000
    learning_rate: float = 1e-4
    warmup: int = 20
    batch: int = 1
    accumulate: int = 1
    resolution: int = 1024
    drop: float = 0.1
    validation: float = 0.0
    seed: int = 0
    save_every: int = 100
    prior_targets: tuple[str, ...] = ()
    decoder_targets: tuple[str, ...] = ()
    checkpointing: bool | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InvalidSettings(
                f"What is trained must be prior, decoder or both, not {self.parts}."
            )
        for name, low, high in (
            ("rank", 1, MAX_RANK),
            ("steps", 1, 10**7),
            ("warmup", 0, 10**6),
            ("batch", 1, 1024),
            ("accumulate", 1, 1024),
            ("resolution", MIN_SIDE, MAX_SIDE),
            ("seed", 0, 2**63 - 1),
            ("save_every", 1, 10**7),
        ):
            self._check(name, low, high)
        self._check("alpha", 0.0, 10_000.0, self.strength)
        self._check("learning_rate", 0.0, 1.0)
        self._check("drop", 0.0, 0.9)
        self._check("validation", 0.0, 0.9)

    @property
    def strength(self) -> float:
        """Return alpha; the adapters are scaled by alpha / rank."""
        return float(self.rank if self.alpha is None else self.alpha)

    def kept(self) -> dict[str, Any]:
        """Return, as JSON, what must be the same when a training goes on."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _FREE}
        del values["parts"]
        return values | {
            "prior_targets": list(self.prior_targets),
            "decoder_targets": list(self.decoder_targets),
        }

    def _check(self, name: str, low: float, high: float, value: float | None = None) -> None:
        value = getattr(self, name) if value is None else value
        if not math.isfinite(value) or not low <= value <= high:
            option = name.replace("_", "-")
            raise InvalidSettings(
                f"--{option} is {value}; it must be between {low:g} and {high:g}."
            )
