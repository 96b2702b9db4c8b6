"""Our side of bench/gpu.py: the networks placed as a case wants them, warmed up, and measured."""

from __future__ import annotations

import contextlib
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import infer
import torch
from full_size import count_needs, open_checkpoint
from gpu_cases import CONTEXT_BYTES, ROWS, Case
from sides import paint_together, references

WARM_TOKENS = 8


class OurSide:
    """Hold our networks as one case after the other wants them.

    usual: the case whose size warms the engine up. setup: how the networks are placed now. fast:
    the exact switches that work with it. free_bytes: of the device, with nothing on it.
    """

    def __init__(
        self, folder: Path, scale: str, device: torch.device, dtype: torch.dtype, usual: Case
    ) -> None:
        from glmimage.memory import Dtypes, free_bytes

        self.scale, self.device, self.usual = scale, device, usual
        self.on_cuda, self.dtypes = device.type == "cuda", Dtypes(dtype, dtype)
        self.checkpoint = open_checkpoint(folder, scale)
        self.free_bytes = free_bytes(device)
        self.stages: Any = None
        self.engine: Any = None
        self.setup: Any = None
        self.fast = ""
        self._needs: dict[str, Any] = {}

    def drop(self) -> None:
        """Release the networks, and all that was compiled and captured for them."""
        torch._dynamo.reset()
        self.engine = self.setup = None
        if self.stages is None:
            gc.collect()
        else:
            self.stages.close()  # which collects
            self.stages = None
        if self.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            print(f"  {torch.cuda.memory_allocated() / 2**30:.1f} GiB held", file=sys.stderr)

    # how the networks are placed

    def needs(self, case: Case) -> Any:
        if case.weights not in self._needs:
            self._needs[case.weights] = count_needs(self.checkpoint, self.dtypes, case.weights)
        return self._needs[case.weights]

    def plan(self, case: Case) -> Any:
        """Choose the memory mode as it is chosen on a card of the case's size."""
        from glmimage.memory import GLM_IMAGE, plan_memory

        if not case.memory_gb:
            return plan_memory(self.needs(case), self.free_bytes)
        if self.scale == "full":
            return plan_memory(self.needs(case), budget_bytes(case))
        # a small model fits anywhere: it takes the mode that the published one has to
        mode = plan_memory(GLM_IMAGE, budget_bytes(case)).mode
        return plan_memory(self.needs(case), self.free_bytes, mode)

    def streamed_bytes(self, case: Case) -> tuple[int, int]:
        """Return what a pass of the prior, and one of the decoder, brings from the host."""
        plan, needs = self.plan(case), self.needs(case)
        layers = (
            (plan.prior_layers, needs.prior_layers, needs.prior_layer),
            (plan.decode_layers, needs.decode_layers, needs.decode_layer),
        )
        prior, decode = (0 if kept is None else (of - kept) * size for kept, of, size in layers)
        return prior, decode

    def setup_of(self, case: Case) -> tuple[Any, ...]:
        """Return what decides how the networks are built."""
        return replace(self.plan(case), why=""), case.weights, case.plain

    def prepare(self, case: Case, fast: str) -> None:
        """Build both stages, unless they are so already, and warm up; drop what fails of `fast`."""
        if case.is_part:
            self.engine = None  # its cache and graphs are no part of what is measured
        setup = self.setup_of(case)
        if setup == self.setup:
            self._warm_up(case)
            return
        wanted = [name for name in fast.split(",") if name]
        if case.plain or self.scale == "tiny":
            wanted = []
        while True:
            self.drop()
            try:
                self._build(case, wanted)
                self._warm_up(case)
            except Exception as error:
                if not wanted or is_out_of_memory(error):
                    raise
                traceback.print_exc()
                print(f"  without {wanted.pop(0)}", file=sys.stderr, flush=True)
            else:
                self.setup, self.fast = setup, ",".join(wanted)
                return

    def _build(self, case: Case, fast: list[str]) -> None:
        from glmimage.lossy import Lossy
        from glmimage.stages import Stages

        place = (self.checkpoint, self.device, self.dtypes, self.plan(case))
        lossy = Lossy(weights=case.weights)
        self.stages = Stages(*place, lossy=lossy, fast=frozenset(fast))

    def _warm_up(self, case: Case) -> None:
        """Capture the graphs and compile the layers that the case will meet."""
        from glmimage.engine.engine import Engine

        if case.is_part:
            self.part(replace(case, tokens=min(case.tokens or 0, 1), steps=min(2, case.steps)))
            return
        if self.engine is None:  # one for all cases, as in a worker: it keeps its graphs
            self.engine = Engine(self.stages)
            self._together([request(self.usual, 0, steps=2)])
        if (case.size, case.references) != (self.usual.size, self.usual.references):
            self._paint(replace(case, steps=2))
        if self.on_cuda and case.requests > 1:  # as many rows as will be written together
            requests = [request(case, seed) for seed in range(min(case.requests, ROWS))]
            ids = [self.engine.add_request(one) for one in requests]
            for _ in range(10):
                self.engine.step()
            for request_id in ids:
                self.engine.abort(request_id)

    # what is measured

    @contextlib.contextmanager
    def kept_to(self, case: Case) -> Iterator[None]:
        """Give this process no more memory than there is on a card of the case's size."""
        if not (case.memory_gb and self.on_cuda):
            yield
            return
        share = budget_bytes(case) / torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(share, self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def take(self, case: Case, until: float = 0.0) -> dict[str, float]:
        """Measure a case that is prepared, in seconds a picture, or a token (`token_s`).

        until: time.monotonic() of the end of requests that wait together; those that are
        `finished` then are counted.
        """
        if self.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if case.is_part:
            return self.part(case)
        requests = [request(case, seed) for seed in range(case.requests)]
        return self._together(requests, until if case.requests > 1 else 0.0)

    def _together(self, requests: list[Any], until: float = 0.0) -> dict[str, float]:
        return paint_together(self.stages, requests, self.engine, until)

    def part(self, case: Case) -> dict[str, float]:
        """Write some tokens of a prior, and paint a picture from an empty one."""
        from glmimage.picture import make_pictures
        from glmimage.pipeline import encode_prompts
        from glmimage.token_loop import TokenLoop

        taken = {}
        if case.tokens:
            stage = replace(self.stages.prior(), guesses=case.guesses)
            pictures = make_pictures("part", request(case, 0))
            encode_prompts(stage, pictures)
            loop = TokenLoop(stage, kv_tokens=self.stages.plan.kv_tokens)
            loop.enter(pictures)
            _passes(loop, WARM_TOKENS)
            taken["token_s"] = _passes(loop, case.tokens)
            if case.guesses:
                taken["pass_s"] = _guessing_passes(loop)
            del stage, loop  # stage by stage, one is gone before the other comes
        return taken | self._paint(case)

    def _paint(self, case: Case) -> dict[str, float]:
        """Paint a picture from an empty prior; return the seconds."""
        from glmimage import PictureReady, PriorReady
        from glmimage.lossy import Lossy
        from glmimage.picture import make_pictures
        from glmimage.pipeline import encode_prompts, encode_references, paint

        (picture,) = make_pictures("part", request(case, 0))
        side = case.size // 32
        picture.prior = PriorReady("part", 0, (side, side), (0,) * side**2)
        if case.references:
            encode_prompts(self.stages.prior(), [picture])
        stage = self.stages.decode()
        if case.switches:
            stage = replace(stage, lossy=Lossy.parse(case.switches))
        events = paint(stage, [picture], encode_references(stage, picture))
        (ready,) = [event for event in events if isinstance(event, PictureReady)]
        return {name: ready.timings[name] for name in ("denoise_s", "decode_s")}

    def profile(self, folder: Path) -> None:
        """Write down which kernels take the time of a few tokens, and of a step."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self.on_cuda:
            activities.append(ProfilerActivity.CUDA)
        for name in ("tokens", "denoise"):
            self._advance(name)
            with profile(activities=activities) as found:
                for _ in range(8 if name == "tokens" else 1):
                    self.engine.step()
                if self.on_cuda:
                    torch.cuda.synchronize()
            by = "self_cuda_time_total" if self.on_cuda else "self_cpu_time_total"
            table = found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90)
            self.engine.abort(name)
            (folder / f"profile-{name}.txt").write_text(table)

    def _advance(self, name: str) -> None:
        """Bring the engine to where tokens are written, or to a denoise step."""
        from glmimage import DenoiseStep, GenerationRequest, PriorReady

        size = self.usual.size if name == "denoise" else 512
        asked = GenerationRequest(infer.PROMPT, size, size, seed=1, num_inference_steps=4)
        side, priors = size // 32, []
        if name == "denoise":
            priors = [PriorReady(name, 0, (side, side), (0,) * side**2)]
        self.engine.add_request(asked, name, priors)
        for _ in range(20):
            events = self.engine.step()
            if any(isinstance(event, DenoiseStep) for event in events):
                return


def request(case: Case, seed: int, steps: int = 0) -> Any:
    from glmimage import GenerationRequest

    return GenerationRequest(
        infer.PROMPT,
        case.size,
        case.size,
        seed=seed,
        num_inference_steps=steps or case.steps,
        source_images=references(case.given),
    )


def budget_bytes(case: Case) -> int:
    """Return what a card of the case's size has for us."""
    return case.memory_gb * 10**9 - CONTEXT_BYTES


def is_out_of_memory(error: Exception) -> bool:
    from glmimage.errors import OutOfMemory

    return isinstance(error, OutOfMemory | torch.OutOfMemoryError)


def _passes(loop: Any, count: int) -> float:
    """Write so many tokens or more; return the seconds of one."""
    loop.gains.clear()
    loop.wait()
    started_s, written = time.perf_counter(), 0
    while loop.rows and written < count:
        loop.step()
        written = sum(gain * often for gain, often in loop.gains.items())
    loop.wait()
    return (time.perf_counter() - started_s) / max(written, 1)


def _guessing_passes(loop: Any, count: int = 8) -> float:
    """Read as many tokens as a pass may, whether they gain or not; return the seconds of a pass."""
    taken = []
    for _ in range(count + 2):  # the first ones capture a graph
        for row in loop.rows.values():
            row.pace = float("inf")
        loop.wait()
        started_s = time.perf_counter()
        loop.step()
        loop.wait()
        taken.append(time.perf_counter() - started_s)
    return statistics.median(taken[2:])
