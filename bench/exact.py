"""Measure what the exact switches of a CPU give: each alone, and all together.

    python bench/exact.py --repeats 3

These are what the engine uses by itself where the processor allows; none changes a picture beyond
rounding. Every way writes and paints the same prompts with the same seeds, in turn in one process;
medians. `upstream` is our own code with none of them, in float32; a ratio above 1 is a gain.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import infer
import record
from prior import make, write

PACKED, PRODUCTS, GUESSES = "packed weights", "products in bfloat16", "guessed windows"
TOGETHER, DECODER, PASSES = "rows together", "decoder in bfloat16", "passes side by side"
WRITING = ((PACKED,), (PACKED, PRODUCTS), (PACKED, GUESSES), (PACKED, PRODUCTS, GUESSES))
# case -> (metric, the ways beside the one with none of the switches)
CASES = {
    "one request": ("prior", WRITING),
    "4 requests at once, a picture": (
        "prior",
        ((TOGETHER,), WRITING[-1], (*WRITING[1], TOGETHER), (*WRITING[-1], TOGETHER)),
    ),
    "one picture": ("denoise", ((DECODER,), (PASSES,), (DECODER, PASSES))),
}


class Ways:
    """Both stages with any of the switches; usable: those that this processor has a use for."""

    def __init__(self, model: str, steps: int) -> None:
        import torch

        from glmimage.packed_prior import PackedPrior, can_pack
        from glmimage.stages import Stages

        chosen = Stages.load(model, "cpu", None, "resident")
        plain = Stages.load(model, "cpu", torch.float32, "resident")
        self._prior, self._steps = chosen.prior(), steps
        self._packed = PackedPrior(self._prior.prior) if can_pack(self._prior.prior) else None
        self._decode = {True: chosen.decode(), False: plain.decode()}
        own = self._prior.packed
        use = {
            PACKED: self._packed is not None,
            PRODUCTS: own is not None and own.products != torch.float32,
            GUESSES: self._packed is not None,
            TOGETHER: True,
            DECODER: chosen.dtypes.decode != torch.float32,
            PASSES: torch.get_num_threads() == 2,
        }
        self.usable = {name for name, has_use in use.items() if has_use}

    def seconds(self, case: str, switches: tuple[str, ...], seed: int) -> float:
        """Return the seconds a picture of one run."""
        if CASES[case][0] == "denoise":
            return self._denoise(switches, seed)
        pictures = make([(512, 512, infer.PROMPT)] * (4 if case[0] == "4" else 1), seed)
        began = time.perf_counter()
        self._write(switches, pictures)
        return (time.perf_counter() - began) / len(pictures)

    def _write(self, switches: tuple[str, ...], pictures: list[Any]) -> None:
        packed = self._packed if PACKED in switches else None
        if PRODUCTS in switches:
            packed = self._prior.packed
        stage = replace(self._prior, packed=packed)
        write(
            stage, pictures, None if GUESSES in switches else 1, None if TOGETHER in switches else 1
        )

    def _denoise(self, switches: tuple[str, ...], seed: int) -> float:
        from glmimage.pipeline import denoise

        pictures = make([(512, 512, infer.PROMPT)], seed)
        self._write(WRITING[-1] if PACKED in self.usable else (), pictures)
        pictures[0].request = replace(pictures[0].request, num_inference_steps=self._steps)
        stage = replace(self._decode[DECODER in switches], side_by_side=PASSES in switches)
        began = time.perf_counter()
        for _ in denoise(stage, pictures):
            pass
        return time.perf_counter() - began


def ways(usable: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Return what is measured here: a case and the switches."""
    for case, (_, sets) in CASES.items():
        yield case, ()
        for switches in sets:
            if usable.issuperset(switches):
                yield case, switches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, a folder, or a Hugging Face id")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="exact", help="end of the result file's name")
    options = parser.parse_args()
    measured = Ways(options.model, options.steps)
    runs: dict[tuple[str, tuple[str, ...]], list[float]] = {
        way: [] for way in ways(measured.usable)
    }
    for seed in range(options.repeats + 1):  # the first round warms up
        for (case, switches), seconds in runs.items():
            seconds.append(measured.seconds(case, switches, seed))
    rows = []
    for (case, switches), seconds in runs.items():
        one, none = (statistics.median(taken[1:]) for taken in (seconds, runs[case, ()]))
        name = f"{case}: {' + '.join(switches) or 'none'}"
        rows.append(record.row(name, CASES[case][0], one, none))
        print(f"{name:90} {one:8.3f} s {none / one:6.2f} times", file=sys.stderr)
    given = SimpleNamespace(model=options.model, device="cpu", threads=0, clock="wall")
    given.guidance, given.repeats, given.warmup = 1.5, options.repeats, 1
    dtypes = {"ours": "each way", "upstream": "none of the switches"}
    card = infer.card(given, dtypes) | {"against": "none of the switches"}
    infer.write_result({"card": card, "rows": rows}, options.name)


if __name__ == "__main__":
    main()
