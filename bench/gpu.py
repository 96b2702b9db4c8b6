"""Measure the engine at the published model's full size with random weights: no download needed.

    python bench/gpu.py                  one CUDA GPU, under ten minutes; see bench/gpu.sh
    python bench/gpu.py --profile        and which kernels take the time of tokens and of a step
    python bench/gpu.py --scale middle   the same code on networks small enough for a CPU
    python bench/gpu.py --scale tiny     a dry run on any machine

The cases, in turn: one request of ours; diffusers' GlmImagePipeline of the same size, once ours is
released; then requests of ours that all wait at once (--requests), as many pictures of them as
--minutes leave time for. Both in bfloat16 on CUDA. --fast names the exact switches of ours, one
after the other dropped when warming up fails. diffusers' picture is left out, and its columns stay
empty, when the first of its tokens say that there is no time for it. The result is written after
every case, so that what is cut off or fails loses no other number; the last line of the output is
the JSON that is also written to bench/results/, or to --out, where profiles go too.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import infer
import torch
from ceiling import denoise_flop, machine_ceiling, prior_bytes
from full_size import few_tokens, our_stages, two_steps, upstream_pipeline, write_checkpoint_folder
from sides import paint_together

TARGETS = {("ms a prior token", False): "6", ("pictures a second", True): ".08"}
"""What is to be reached at full size, by one request alone (False) or by many at once (True)."""
AT_ONCE = "requests at once, a picture"


class Bench:
    """Take the cases in turn, each as far as the time allows, and write what is known after each.

    rows: what is measured; a row's `upstream` and `ratio` are None until diffusers has run.
    theirs: what diffusers took for a picture, by the rows' metrics.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.dtype = torch.float32
        if device.type == "cuda" or options.scale == "middle":
            self.dtype = torch.bfloat16
        self.until = STARTED_S + 60 * options.minutes
        self.size, self.steps = (1024, options.steps) if options.scale == "full" else (512, 3)
        self.case = {"width": self.size, "height": self.size, "steps": self.steps}
        self.case |= {"guidance": 1.5, "seed": 0, "references": 0, "upstream": 1}
        self.num_tokens = (self.size // 32) ** 2 + 256
        self.rows: list[dict[str, Any]] = []
        self.alone: dict[str, float] = {}
        self.theirs: dict[str, float] = {}
        self.card: dict[str, Any] = {}
        self.engine: Any = None
        self.on_cuda = device.type == "cuda"

    def run(self, folder: Path) -> None:
        with told("ceiling"):
            self.start_card()
        with told("ours: networks and warm-up"):
            stages = self.start_ours(folder)
        with told("ours: one request"):
            self.alone = self.ours(stages, 1)
            self.add(self.name(), self.alone, self.work(stages))
        if self.options.profile:
            with told("ours: profile"):
                self.profile(stages)
        self.engine = stages = None
        self.release()
        with told("diffusers"):
            self.upstream(folder)
        self.release()
        with told(f"ours: {self.options.requests} requests at once"):
            self.together(self.start_ours(folder))

    def left_s(self) -> float:
        return self.until - time.monotonic()

    def name(self) -> str:
        return f"{self.size}x{self.size}, {self.steps} steps"

    def start_card(self) -> None:
        given = SimpleNamespace(model=f"{self.options.scale} size, random weights", device=None)
        given.threads, given.clock, given.guidance = 0, "wall", 1.5
        given.repeats = given.warmup = 1
        name = str(self.dtype).removeprefix("torch.")
        self.card |= infer.card(given, {"ours": name, "upstream": name})
        ceiling = machine_ceiling(self.device, self.dtype)
        self.card["ceiling"] = {key: float(f"{value:.4g}") for key, value in ceiling.items()}
        print(self.card, file=sys.stderr, flush=True)
        self.release()

    def release(self) -> None:
        torch._dynamo.reset()
        gc.collect()
        if self.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            print(f"  {torch.cuda.memory_allocated() / 2**30:.1f} GiB held", file=sys.stderr)

    def start_ours(self, folder: Path) -> Any:
        """Build both stages and warm them up."""
        stages = our_stages(folder, self.options.scale, self.device, self.dtype)
        self.card["plan"] = stages.plan.why or stages.plan.mode
        self.warm_up(stages)
        return stages

    def warm_up(self, stages: Any) -> None:
        """Capture the graphs and compile the layers, in a picture of two steps; else go without."""
        from glmimage.stages import compile_layers

        wanted = [name for name in self.card.get("fast", self.options.fast).split(",") if name]
        if self.options.scale == "tiny":
            wanted = []
        prior, decode = stages.prior(), stages.decode()
        while True:
            object.__setattr__(prior, "graphs", "graphs" in wanted and self.on_cuda)
            object.__setattr__(prior, "compiled", "compile" in wanted)
            for block in decode.dit.blocks:
                block._compiled_call_impl = None
            if "compile" in wanted:
                compile_layers(decode.dit)
            self.card["fast"] = ",".join(wanted)
            try:
                self.engine = None
                self.ours(stages, 1, steps=2)
                if self.on_cuda:  # as many rows as will be written together
                    ids = [self.engine.add_request(self.request(n)) for n in range(8)]
                    for _ in range(10):
                        self.engine.step()
                    for request_id in ids:
                        self.engine.abort(request_id)
                return
            except Exception:
                if not wanted:
                    raise
                traceback.print_exc()
                print(f"  without {wanted.pop(0)}", file=sys.stderr, flush=True)

    def ours(
        self, stages: Any, requests: int, steps: int = 0, until: float = 0.0
    ) -> dict[str, float]:
        """Make pictures that wait at once, seconds a picture; `finished` of them before `until`."""
        from glmimage.engine.engine import Engine

        if self.engine is None:  # one for all cases, as in a worker: it keeps its graphs
            self.engine = Engine(stages)
        given = [self.request(seed, steps) for seed in range(requests)]
        taken = paint_together(stages, given, self.engine, until)
        print(" ", taken, file=sys.stderr, flush=True)
        return taken

    def request(self, seed: int, steps: int = 0) -> Any:
        from glmimage import GenerationRequest

        size, steps = self.size, steps or self.steps
        return GenerationRequest(infer.PROMPT, size, size, seed=seed, num_inference_steps=steps)

    def together(self, stages: Any) -> None:
        """Let all requests wait at once; those that are not finished in time are given up."""
        if self.left_s() < self.least_s():
            print("  left out: no time for two pictures", file=sys.stderr, flush=True)
            return
        waiting = self.options.requests
        taken = self.ours(stages, waiting, until=self.until)
        finished = int(taken["finished"])
        name = f"{self.name()}, {waiting} {AT_ONCE}"
        if finished < waiting:
            name += f", the first {finished}"
        self.add(name, taken, {})

    def least_s(self) -> float:
        """Return the seconds that two of many pictures take: the priors of all rows come first."""
        spent = self.alone
        return 2 * (spent["prior_s"] + spent["denoise_s"] + spent["decode_s"]) if spent else 0.0

    def work(self, stages: Any) -> dict[str, tuple[float, str]]:
        """Count what bounds each stage of one picture, and the unit of its ceiling."""
        work = {"denoise": (denoise_flop(stages.decode().dit, self.case), "flop_per_s")}
        if stages.prior().packed is None:  # which would write several tokens a pass
            work["prior"] = (prior_bytes(stages.prior(), self.num_tokens), "bytes_per_s")
        return work

    def add(self, name: str, taken: dict[str, float], work: dict[str, tuple[float, str]]) -> None:
        """Write the rows of a case of ours."""
        ceiling, at_once = self.card.get("ceiling"), AT_ONCE in name
        for metric, value in self.values(taken).items():
            if metric == "pictures a second" and not at_once:
                continue
            row: dict[str, Any] = {"case": name, "metric": metric, "ours": round(value, 4)}
            target = TARGETS.get((metric, at_once))
            if target and self.options.scale == "full":
                row["target"] = target
            if metric in work and ceiling:
                counted, unit = work[metric]
                row[unit] = float(f"{counted / value:.4g}")
                row["share_of_ceiling"] = round(counted / value / ceiling[unit], 3)
            self.rows.append(row)
        self.write()

    def values(self, taken: dict[str, float]) -> dict[str, float]:
        """Return the metrics of either side, by the seconds a picture."""
        values = {metric: taken[key] for metric, key in list(infer.METRICS.items())[:4]}
        values["ms a prior token"] = 1e3 * taken["prior_s"] / self.num_tokens
        values["peak memory"] = infer.peak_memory(torch, self.device)
        values["pictures a second"] = 1 / taken["total_s"]
        return values

    def upstream(self, folder: Path) -> None:
        """Run diffusers' pipeline once at this size, after a warm-up, if the time allows."""
        pipe = upstream_pipeline(folder, self.options.scale, self.device, self.dtype)
        side = infer.Upstream.of(pipe, self.device)
        few_tokens(pipe, self.case, 4)
        token_s = few_tokens(pipe, self.case, 16) / 16
        two_steps(pipe, self.case, self.device)
        step_s = two_steps(pipe, self.case, self.device) / 2
        expected_s = self.num_tokens * token_s + self.steps * step_s
        left_s = self.left_s()
        told_s = f"a token {token_s:.3f} s, a step {step_s:.3f} s, so a picture {expected_s:.0f} s"
        print(f"  {told_s} of {left_s:.0f} s left", file=sys.stderr, flush=True)
        if self.options.scale == "full" and expected_s > left_s:
            raise RuntimeError("There is no time for diffusers' picture.")
        taken = side.run(self.case)
        print(" ", taken, file=sys.stderr, flush=True)
        self.theirs = self.values(taken)
        self.card["upstream"] = {key: round(value, 4) for key, value in self.theirs.items()}
        self.write()

    def profile(self, stages: Any) -> None:
        """Say which kernels take the time of a few tokens, and of a step."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self.on_cuda:
            activities.append(ProfilerActivity.CUDA)
        for name in ("tokens", "denoise"):
            self.advance(name)
            with profile(activities=activities) as found:
                for _ in range(8 if name == "tokens" else 1):
                    self.engine.step()
                if self.on_cuda:
                    torch.cuda.synchronize()
            by = "self_cuda_time_total" if self.on_cuda else "self_cpu_time_total"
            table = found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90)
            self.engine.abort(name)
            file = self.options.out / f"profile-{name}.txt"
            file.write_text(table)

    def advance(self, name: str) -> None:
        """Bring the engine to where tokens are written, or to a denoise step."""
        from glmimage import DenoiseStep, GenerationRequest, PriorReady

        size = self.size if name == "denoise" else 512
        request = GenerationRequest(infer.PROMPT, size, size, seed=1, num_inference_steps=4)
        side, priors = size // 32, []
        if name == "denoise":
            priors = [PriorReady(name, 0, (side, side), (0,) * side**2)]
        self.engine.add_request(request, name, priors)
        for _ in range(20):
            events = self.engine.step()
            if any(isinstance(event, DenoiseStep) for event in events):
                return

    def write(self) -> None:
        """Put diffusers' figures beside ours, as far as they are known, and write all down."""
        for row in self.rows:
            row |= {"upstream": None, "ratio": None}
            if row["metric"] in self.theirs:
                theirs = self.theirs[row["metric"]]
                ratio = theirs / row["ours"]
                if row["metric"] == "pictures a second":
                    ratio = 1 / ratio
                row |= {"upstream": round(theirs, 4), "ratio": round(ratio, 3)}
        result = {"card": self.card, "rows": self.rows}
        infer.write_result(result, f"gpu-{self.options.scale}", self.options.out)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say what begins and how long it took; an error is told, and what follows goes on."""
    started_s = time.monotonic()
    print(f"[{started_s - STARTED_S:.0f} s] {what}", file=sys.stderr, flush=True)
    try:
        yield
    except Exception:
        traceback.print_exc()
    took_s = time.monotonic() - started_s
    print(f"  {what}: {took_s:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.scale == "full" and device.type != "cuda":
        raise SystemExit("The full size needs a CUDA GPU; use --scale tiny for a dry run.")
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options, device)
    with tempfile.TemporaryDirectory() as name:
        bench.run(write_checkpoint_folder(Path(name), "toy"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=("full", "middle", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--requests", type=int, default=16, help="that wait at once")
    parser.add_argument("--fast", default="compile,graphs", help="of ours; dropped when it fails")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all, diffusers included")
    parser.add_argument("--profile", action="store_true", help="write which kernels take the time")
    parser.add_argument("--out", type=Path, default=infer.RESULTS, help="folder of the result")
    return parser.parse_args()


STARTED_S = time.monotonic()

if __name__ == "__main__":
    main()
