"""The steps of one part's training: stopped at any step, it goes on as if it had not been."""

from __future__ import annotations

import io
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..atomic_file import replace_file
from ..errors import GlmImageError, InvalidSettings, OutputError
from ..loading.adapters import save_adapter
from ..types import image_seed
from .adapters import Trained
from .objectives import Objective
from .options import LoraOptions
from .progress import Saved, Stepped, TrainingEvent

Item = TypeVar("Item")

STATE_FILE, OPTIONS_FILE, LOG_FILE = "training.pt", "training.json", "log.jsonl"
LAST_RATE = 0.1
"""Of the learning rate is left at the end of its cosine."""
MAX_NORM = 1.0
VALIDATION_SEED = 1_000_003


@dataclass(eq=False)
class PartTraining(Generic[Item]):
    """Train the adapters of one part on `learnt`; measure with `kept_out`."""

    part: str
    options: LoraOptions
    trained: Trained
    objective: Objective[Item]
    learnt: Sequence[Item]
    kept_out: Sequence[Item]
    target_modules: Sequence[str]
    base_model: str
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.options.out / self.part
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(),
            lr=self.options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )
        self._mates: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(self.learnt):
            self._mates.setdefault(self.objective.shape(item), []).append(index)
        if self.options.resume and (self.folder / STATE_FILE).is_file():
            self._go_on()

    def run(self, should_stop: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """Train to the last step, or until `should_stop()`; what was reached is saved."""
        losses: list[float] = []
        while self.step < self.options.steps:
            started = time.perf_counter()
            losses.append(self._learn())
            seconds = time.perf_counter() - started
            yield Stepped(self.part, self.step, self.options.steps, losses[-1], seconds)
            last = self.step == self.options.steps or should_stop()
            if last or self.step % self.options.save_every == 0:
                yield self._save(losses)
                losses = []
            if last:
                return

    def _learn(self) -> float:
        """Do one step and return its loss."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(self.step, options.steps, options.warmup)
        total = 0.0
        for turn in range(options.accumulate):
            number = self.step * options.accumulate + turn
            generator = torch.Generator().manual_seed(image_seed(options.seed, number + 1))
            items = [self.learnt[index] for index in self._draw(number)]
            loss = self.objective.loss(items, generator) / options.accumulate
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise GlmImageError(
                f"The loss of the {self.part} is no number at step {self.step + 1}.",
                hint="Take a smaller --learning-rate; what was saved last is kept.",
            )
        nn.utils.clip_grad_norm_(self.trained.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def _draw(self, number: int) -> list[int]:
        """Choose the items of a batch: each leads one batch a round, with mates of its size."""
        turn, place = divmod(number, len(self.learnt))
        order = random.Random(f"{self.options.seed} {turn}")
        lead = order.sample(range(len(self.learnt)), len(self.learnt))[place]
        mates = [i for i in self._mates[self.objective.shape(self.learnt[lead])] if i != lead]
        wanted = min(self.options.batch - 1, len(mates))
        return [lead, *random.Random(f"{self.options.seed} {number}").sample(mates, wanted)]

    @torch.no_grad()
    def _validate(self) -> float | None:
        """Return the loss of the pictures kept out, with the same noise every time."""
        losses = []
        for number, item in enumerate(self.kept_out):
            generator = torch.Generator().manual_seed(VALIDATION_SEED + number)
            losses.append(self.objective.loss([item], generator).item())
        return sum(losses) / len(losses) if losses else None

    def _save(self, losses: Sequence[float]) -> Saved:
        """Write adapters, log and state, each whole or not at all; raise OutputError."""
        validation = self._validate()
        row: dict[str, Any] = {"step": self.step, "loss": round(sum(losses) / len(losses), 6)}
        if validation is not None:
            row["validation"] = round(validation, 6)
        self.rows.append(row)
        state = {
            "step": self.step,
            "adapters": self.trained.state(),
            "optimizer": self.optimizer.state_dict(),
            "log": json.dumps(self.rows),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        options = self.options
        pairs: dict[str, tuple[Tensor, Tensor]] = {**self.trained.pairs}
        try:
            save_adapter(
                self.folder,
                self.part,
                pairs,
                options.strength,
                self.target_modules,
                self.base_model,
            )
            kept = json.dumps(options.kept(), indent=2, ensure_ascii=False) + "\n"
            replace_file(self.folder / OPTIONS_FILE, kept.encode(), 0o644)
            lines = "".join(json.dumps(one) + "\n" for one in self.rows)
            replace_file(self.folder / LOG_FILE, lines.encode(), 0o644)
            replace_file(self.folder / STATE_FILE, buffer.getvalue(), 0o644)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(
                f"The {self.part}'s step {self.step} cannot be saved in {str(self.folder)!r}: "
                f"{reason}.",
                hint="Make space; what was saved before is kept, and --resume goes on from there.",
            ) from None
        return Saved(self.part, self.step, self.folder, validation)

    def _go_on(self) -> None:
        """Take over what an earlier run has reached; raise InvalidSettings when it is another's."""
        check_same_options(self.folder, self.options)
        try:
            content = (self.folder / STATE_FILE).read_bytes()
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self.trained.load_state(state["adapters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.rows, self.step = json.loads(state["log"]), state["step"]
        except Exception as error:  # whatever a damaged file makes torch raise
            raise InvalidSettings(
                f"{str(self.folder / STATE_FILE)!r} cannot be gone on from: "
                f"{type(error).__name__}: {str(error).splitlines()[:1]}.",
                hint="Name a new folder with --output, and train anew.",
            ) from None


def rate(step: int, steps: int, warmup: int) -> float:
    """Return the part of the learning rate at a step: rising, then a cosine down to a tenth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return min(1.0, (step + 1) / max(warmup, 1)) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def check_same_options(folder: Path, options: LoraOptions) -> None:
    """Refuse to go on with options that would have led elsewhere."""
    try:
        before = json.loads((folder / OPTIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    for name, value in options.kept().items():
        if before.get(name) != value:
            raise InvalidSettings(
                f"{str(folder)!r} was trained with {name} {before.get(name)!r}, not {value!r}.",
                hint="Go on with the same options, or name a new folder with --output.",
            )
