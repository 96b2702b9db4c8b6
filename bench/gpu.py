"""Measure the engine at the published model's full size with random weights: no download needed.

    python bench/gpu.py                      one CUDA GPU, under ten minutes; see bench/gpu.sh
    python bench/gpu.py --cases four,large   some of the cases that gpu_cases.py lists
    python bench/gpu.py --profile            and which kernels take the time of tokens and of a step
    python bench/gpu.py --scale middle       the same code on networks small enough for a CPU
    python bench/gpu.py --scale tiny         a dry run on any machine

The cases come by their importance: one picture of ours; diffusers' GlmImagePipeline of the same
size, once ours is released; requests of ours that all wait at once; other sizes, an edit, cards
with less memory, lossy switches. Both sides in bfloat16 on CUDA. --fast names the exact switches of
ours, one after the other dropped when warming up fails. What a case will take is estimated from
what was measured before it; what does not fit into --minutes is left out, and of the requests at
once as many pictures are made as there is time for. Some cases write a part of a prior and take a
few steps; diffusers does so at the other sizes: the first tokens, which have the least to look at.

In place of a card with 80, 48, 24 or 16 GB this process keeps to so much, in the memory mode that
is chosen there. With random weights a step cache skips other steps than with trained ones, and no
lossy switch has an accuracy: docs/lossy.md has those.

The result is written after every case, so that what is cut off or fails loses no other number; a
case that fails has a row without one. The last line of the output is the JSON that is also written
to bench/results/, for smaller networks to out/, or to --out, where profiles go too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import infer
import torch
from ceiling import denoise_flop, machine_ceiling, prior_bytes
from full_size import step_seconds, token_seconds, upstream_pipeline, write_checkpoint_folder
from gpu_cases import DIFFUSERS, FEW_STEPS, SIZES, TOKENS, Case, Pace, list_cases
from gpu_ours import OurSide, budget_bytes
from record import ratio

TARGETS = {("ms a prior token", False): "6", ("pictures a second", True): ".08"}
"""What is to be reached at full size, by one request alone (False) or by many at once (True)."""


class LeftOut(Exception):
    """This machine has no time, or no use, for a case."""


class Bench:
    """Take the cases in turn, each as far as the time allows, and write what is known after each.

    rows: what is measured, beside what diffusers has to do to be compared with. theirs: what that
    took diffusers, by the rows' metrics. started_s: time.monotonic() from which --minutes count.
    """

    def __init__(
        self, options: argparse.Namespace, device: torch.device, folder: Path, started_s: float
    ) -> None:
        self.options, self.device, self.folder = options, device, folder
        self.on_cuda = device.type == "cuda"
        bfloat16 = self.on_cuda or options.scale == "middle"
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32
        self.until = started_s + 60 * options.minutes
        steps = options.steps or (50 if options.scale == "full" else 3)
        self.cases = list_cases(options.scale, steps, options.requests)
        self.usual = self.cases[0]
        self.side = OurSide(folder, options.scale, device, self.dtype, self.usual)
        self.dit = SimpleNamespace(config=self.side.checkpoint.dit_config)
        self.rows: list[tuple[tuple[int, int] | None, dict[str, Any]]] = []
        self.theirs: dict[tuple[int, int] | None, dict[str, float]] = {}
        self.card: dict[str, Any] = {"left_out": [], "failed": {}}
        self.pace: Pace | None = None

    def run(self) -> None:
        cases: dict[str, Case | None] = {self.usual.key: self.usual, DIFFUSERS: None}
        cases |= {case.key: case for case in self.cases}
        wanted = list(filter(None, self.options.cases.split(",")))
        if unknown := sorted(set(wanted) - set(cases)):
            raise SystemExit(f"There is no case {unknown[0]!r}; known: {', '.join(cases)}.")
        self.start_card()
        for key, case in cases.items():
            if not wanted or key in wanted:
                self.attempt(case)
        self.write()

    def left_s(self) -> float:
        return max(0.0, self.until - time.monotonic())

    def start_card(self) -> None:
        given = SimpleNamespace(model=f"{self.options.scale} size, random weights", device=None)
        given.threads, given.clock, given.guidance = 0, "wall", 1.5
        given.repeats = given.warmup = 1
        name = str(self.dtype).removeprefix("torch.")
        self.card = infer.card(given, {"ours": name, "upstream": name}) | self.card
        with told("ceiling"):
            ceiling = machine_ceiling(self.device, self.dtype)
            self.card["ceiling"] = {key: float(f"{value:.4g}") for key, value in ceiling.items()}
        print(self.card, file=sys.stderr, flush=True)
        self.side.drop()

    def attempt(self, case: Case | None) -> None:
        """Take a case of ours, or diffusers; tell what is left out, and what fails."""
        name = f"{self.usual.name()}, {DIFFUSERS}" if case is None else self.name(case)
        failed = False
        try:
            with told(name):
                if case is None:
                    self.take_upstream()
                else:
                    self.check(case)
                    self.take(case)
        except LeftOut as reason:
            print(f"  left out: {name}: {reason}", file=sys.stderr, flush=True)
            self.card["left_out"].append(f"{name}: {reason}")
        except Exception as error:
            self.fail(case, name, error)
            failed = True
        if failed or case is None:  # the next case begins from nothing
            self.side.drop()
        self.write()

    def fail(self, case: Case | None, name: str, error: Exception) -> None:
        """Write the row of a case that has no number."""
        traceback.print_exception(error)
        what = first_line(error)
        print(f"  failed: {name}: {what}", file=sys.stderr, flush=True)
        self.card["failed"][name] = what
        whole = case is None or not case.is_part
        row = {"case": name, "metric": "end to end" if whole else "ms a denoise step"}
        self.rows.append((None, row | {"ours": None, "failed": what}))
        error.__traceback__ = None  # its frames hold the networks

    def name(self, case: Case) -> str:
        from glmimage.errors import OutOfMemory

        try:
            return case.name(self.side.plan(case).mode if case.memory_gb else "")
        except OutOfMemory:
            return case.name("too little")

    def check(self, case: Case) -> None:
        """Raise LeftOut where a case does not fit into the time that is left, or the device."""
        if case.memory_gb and self.on_cuda:
            total = torch.cuda.get_device_properties(self.device).total_memory
            if budget_bytes(case) > total:
                raise LeftOut(f"this device has {total / 1e9:.0f} GB")
        if not (left_s := self.left_s()):
            raise LeftOut("the time is over")
        expected_s = 0.0
        if self.pace is not None:
            expected_s = self.pace.expected_s(
                case, self.dit, streamed=self.side.streamed_bytes(case)
            )
            if case.must:
                expected_s = self.pace.least_s(case, self.dit)
            if self.side.setup_of(case) != self.side.setup:
                expected_s += self.pace.starting_s(case)
        if expected_s > left_s:
            raise LeftOut(f"it takes some {expected_s:.0f} s of {left_s:.0f} s left")

    def take(self, case: Case) -> None:
        """Measure a case of ours, and write its rows."""
        with self.side.kept_to(case):
            started_s, built = time.monotonic(), self.side.setup_of(case) != self.side.setup
            self.side.prepare(case, self.options.fast)
            self.card.setdefault("plan", self.side.stages.plan.why)
            self.card.setdefault("fast", self.side.fast)
            if self.pace is None:
                self.pace = self.learn()
            if built:
                self.pace.start_s[case.is_part] = time.monotonic() - started_s
            taken = self.side.take(case, self.until)
        print(" ", taken, file=sys.stderr, flush=True)
        finished, name = int(taken.get("finished", 1)), self.name(case)
        if not finished:
            raise LeftOut("no picture was finished in time")
        if case.requests > finished and not case.is_part:
            name += f", the first {finished}"
        self.add(name, case, self.values(case, taken))
        if case == self.usual:  # the mean of all its tokens, not of the first
            self.pace.token_s = taken["prior_s"] / case.num_tokens
            if self.options.profile:
                with self.surviving("profile"):
                    self.side.profile(self.options.out)

    def learn(self) -> Pace:
        """Find out how fast this machine is, by a few tokens and steps."""
        case = replace(self.usual, tokens=TOKENS, steps=min(FEW_STEPS, self.usual.steps))
        taken = self.side.part(case)
        ceiling = self.card["ceiling"]
        host_bytes_per_s = ceiling.get("host_bytes_per_s", ceiling["bytes_per_s"])
        step_s, decode_s = taken["denoise_s"] / case.steps, taken["decode_s"]
        return Pace(case, taken["token_s"], step_s, decode_s, host_bytes_per_s)

    def values(self, case: Case, taken: dict[str, float]) -> dict[str, float]:
        """Return the metrics of either side, by the seconds a picture."""
        whole = list(infer.METRICS.items())[:4]
        if case.is_part:  # of few steps, the seconds of all say nothing
            whole = [pair for pair in whole if pair[0] == "decode" or not case.tokens]
        values = {metric: taken[key] for metric, key in whole if key in taken}
        token_s = taken.get("token_s", taken.get("prior_s", 0.0) / case.num_tokens)
        if token_s:
            values["ms a prior token"] = 1e3 * token_s
        if "pass_s" in taken:  # by the most tokens of one row: LONGEST_AHEAD
            return {"ms a pass with guesses": 1e3 * taken["pass_s"]}
        values["ms a denoise step"] = 1e3 * taken["denoise_s"] / case.steps
        values["peak memory"] = infer.peak_memory(torch, self.device)
        if "total_s" in taken:
            values["pictures a second"] = 1 / taken["total_s"]
        return values

    def work(self, case: Case) -> dict[str, tuple[float, str]]:
        """Count what bounds each stage of one picture, and the unit of its ceiling."""
        plan = self.side.plan(case)
        if case.switches or plan.mode == "layered":
            return {}  # skipped, packed or on its way from the host: bound by something else
        part = bool(case.tokens)
        flop = denoise_flop(self.dit, case.given)
        work = {"denoise": (flop, "flop_per_s")}
        if part:
            work = {"ms a denoise step": (1e3 * flop / case.steps, "flop_per_s")}
        if plan.resident and case.requests == 1:
            stage = self.side.stages.prior()
            if stage.packed is None and not stage.guesses:  # those write several tokens a pass
                name, passes = ("ms a prior token", 1e3) if part else ("prior", case.num_tokens)
                work[name] = (prior_bytes(stage, passes), "bytes_per_s")
        return work

    def add(self, name: str, case: Case, values: dict[str, float]) -> None:
        """Take in the rows of a case of ours."""
        at_once, work, ceiling = case.requests > 1, self.work(case), self.card["ceiling"]
        for metric, value in values.items():
            if metric == "pictures a second" and not at_once:
                continue
            row: dict[str, Any] = {"case": name, "metric": metric, "ours": round(value, 4)}
            target = TARGETS.get((metric, at_once))
            if target and case.must and self.options.scale == "full":
                row["target"] = target
            if metric in work:
                counted, unit = work[metric]
                row[unit] = float(f"{counted / value:.4g}")
                row["share_of_ceiling"] = round(counted / value / ceiling[unit], 3)
            if self.side.fast != self.card["fast"] and not case.plain:
                row["fast"] = self.side.fast
            self.rows.append((case.like, row))

    def take_upstream(self) -> None:
        """Run diffusers' pipeline: one picture, and parts of those that ours is measured at."""
        if self.left_s() <= (self.pace.starting_s(self.usual) if self.pace else 0.0):
            raise LeftOut(f"{self.left_s():.0f} s are left, too few to begin")
        self.side.drop()
        case, scale = self.usual, self.options.scale
        pipe = upstream_pipeline(self.folder, scale, self.device, self.dtype)
        side = infer.Upstream.of(pipe, self.device)
        pace = self.take_few(pipe, case)
        expected_s = pace.expected_s(case, self.dit)
        told_s = f"it takes some {expected_s:.0f} s of {self.left_s():.0f} s left"
        fits = expected_s < self.left_s()
        if fits:
            if self.on_cuda:
                torch.cuda.reset_peak_memory_stats()
            taken = side.run(case.given)
            print(" ", taken, file=sys.stderr, flush=True)
            theirs = self.theirs[case.like] = self.values(case, taken)
            self.card["upstream"] = {key: round(value, 4) for key, value in theirs.items()}
            self.write()
        self.take_few_of_others(pipe, pace)
        if not fits:
            raise LeftOut(told_s)

    def take_few(self, pipe: Any, case: Case) -> Pace:
        """Let diffusers write a few tokens and take a few steps, and say how fast it is."""
        token_s = token_seconds(pipe, case.given)
        step_s = step_seconds(pipe, case.given, self.device)
        found = {"ms a prior token": 1e3 * token_s, "ms a denoise step": 1e3 * step_s}
        self.theirs[case.like] = found
        print(" ", found, file=sys.stderr, flush=True)
        return Pace(case, token_s, step_s, decode_s=step_s)

    def take_few_of_others(self, pipe: Any, pace: Pace) -> None:
        """Do the same at the other sizes, as long as there is time left for what has to be said."""
        kept_s = 0.0
        if self.pace is not None:
            for case in self.cases:
                if case.must and case != self.usual:
                    kept_s += self.pace.starting_s(case) + self.pace.expected_s(case, self.dit)
        for case in self.cases:
            if case.like is None or case.like in self.theirs:
                continue
            few = replace(case, requests=1, tokens=TOKENS, steps=3)
            if kept_s + pace.expected_s(few, self.dit) > self.left_s():
                continue
            with self.surviving(f"{DIFFUSERS}, a few tokens and steps as in {case.name()}"):
                self.take_few(pipe, case)

    @contextlib.contextmanager
    def surviving(self, what: str) -> Iterator[None]:
        """Note what fails beside the cases, and go on."""
        try:
            with told(what):
                yield
        except Exception as error:
            traceback.print_exc()
            self.card["failed"][what] = first_line(error)

    def write(self) -> None:
        """Put diffusers' figures beside ours, as far as they are known, and write all down."""
        rows = []
        for like, row in self.rows:
            theirs, ours = self.theirs.get(like, {}).get(row["metric"]), row["ours"]
            compared = row | {"upstream": None, "ratio": None}
            if theirs is not None:
                better = ratio(row["metric"], ours, theirs)
                compared |= {"upstream": round(theirs, 4), "ratio": better}
            rows.append(compared)
        # a run of some cases is no other run's result
        name = "-".join(["gpu", self.options.scale, *self.options.cases.split(",")]).rstrip("-")
        infer.write_result({"card": self.card, "rows": rows}, name, self.options.out)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say what begins and how long it took."""
    started_s = time.monotonic()
    print(f"[{started_s - STARTED_S:.0f} s] {what}", file=sys.stderr, flush=True)
    yield
    took_s = time.monotonic() - started_s
    print(f"  {what}: {took_s:.1f} s", file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.scale == "full" and device.type != "cuda":
        raise SystemExit("The full size needs a CUDA GPU; use --scale tiny for a dry run.")
    with tempfile.TemporaryDirectory() as name:
        folder = write_checkpoint_folder(Path(name), "toy")
        Bench(options, device, folder, STARTED_S).run()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=tuple(SIZES), default="full")
    parser.add_argument("--steps", type=int, help="50, of smaller networks 3")
    parser.add_argument("--requests", type=int, default=16, help="that wait at once")
    parser.add_argument("--cases", default="", help="some of them, separated by commas")
    parser.add_argument("--fast", default="compile,graphs", help="of ours; dropped when it fails")
    parser.add_argument("--minutes", type=float, default=9.5, help="of all, diffusers included")
    parser.add_argument("--profile", action="store_true", help="write which kernels take the time")
    parser.add_argument("--out", type=Path, help="folder of the result")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = infer.RESULTS if options.scale == "full" else infer.ROOT / "out"
    options.out.mkdir(parents=True, exist_ok=True)
    return options


STARTED_S = time.monotonic()

if __name__ == "__main__":
    main()
