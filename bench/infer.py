"""Measure glmimage against diffusers' GlmImagePipeline: same checkpoint, same run, in turn.

    python bench/infer.py --model nano --sizes 512x512,1024x1024 --steps 30 --repeats 5
    python bench/infer.py --sizes 512x512 --requests 4,16 --references 0,1

Each side lives in its own process, which stays for the whole run; the two are measured one after
the other, again and again, so that whatever else the machine does falls on both. The first pictures
of a size are not counted. Peak memory is that of the process so far. diffusers runs in the fastest
of the dtypes tried on this machine. On a machine that others use as well, `--clock cpu --threads 1`
counts the seconds that each process has really computed. Several requests at once go through our
engine; diffusers takes them one after the other, and is timed on the first `--upstream-requests` of
them. Beside the seconds of ours stands what was reached of the ceiling (large products, copies),
measured in the same process. The last line of the output is the JSON that is also written to
bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python looks for modules beside the script first, and finds a queue.py there that is not its own
sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
sys.path.append(str(HERE))  # last
import record  # noqa: E402
from record import RESULTS, ROOT, Row, write_result  # noqa: E402
from sides import PROMPT, Case, Ours, Upstream, peak_memory  # noqa: E402

# what the other scripts take from here
__all__ = ["METRICS", "PROMPT", "RESULTS", "ROOT", "Upstream", "card", "write_result"]
__all__ += ["peak_memory"]

# enough to see in which number format diffusers is the faster
FEW_STEPS = 3
METRICS = {
    "prior": "prior_s",
    "denoise": "denoise_s",
    "decode": "decode_s",
    "end to end": "total_s",
    "peak memory": "peak_memory_bytes",
}


def work(options: argparse.Namespace) -> None:
    """Serve one side: a case a line on stdin, its seconds a line on stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    if options.clock == "cpu":
        time.perf_counter = time.process_time  # what the pipeline's own timings read, too
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    side: Ours | Upstream
    side = (Ours if options.worker == "ours" else Upstream)(options, options.dtype)
    told: dict[str, Any] = {"dtype": side.dtype.replace("torch.", "")}
    if isinstance(side, Ours):
        told["ceiling"] = side.ceiling()
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        answer = side.run(case)
        if isinstance(side, Ours):
            answer |= side.work(case)
        answer["peak_memory_bytes"] = peak_memory(torch, side.device)
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """One side in its own process."""

    def __init__(self, side: str, options: argparse.Namespace, dtype: str) -> None:
        arguments = [sys.executable, __file__, "--worker", side, "--dtype", dtype]
        arguments += ["--model", options.model, "--threads", str(options.threads)]
        arguments += ["--clock", options.clock, "--fast", options.fast]
        arguments += ["--device", options.device] if options.device else []
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told = self._answer()
        self.dtype, self.ceiling = told["dtype"], told.get("ceiling", {})

    def run(self, case: Case) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A worker ended with code {self.process.wait()}; see above.")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def fastest_dtype(options: argparse.Namespace, case: Case) -> str:
    """Return the dtype in which diffusers is fastest here, of those asked for."""
    dtypes = options.upstream_dtypes.split(",")
    if len(dtypes) == 1:
        return dtypes[0]
    seconds = {}
    case, steps = case | {"upstream": 1}, case["steps"]
    few = min(steps, FEW_STEPS)
    for dtype in dtypes:
        worker = Worker("upstream", options, dtype)
        worker.run(case | {"steps": 1})
        taken = min(
            (worker.run(case | {"steps": few}) for _ in range(2)), key=itemgetter("total_s")
        )
        # a format can be the faster in the prior and the slower in the steps
        seconds[dtype] = taken["total_s"] + taken["denoise_s"] * (steps - few) / few
        worker.close()
        print(f"diffusers in {dtype}: some {seconds[dtype]:.2f} s", file=sys.stderr)
    return min(seconds, key=lambda dtype: seconds[dtype])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all cases in turn and return the card and the rows."""
    cases = [
        {"width": int(width), "height": int(height), "steps": options.steps}
        | {"guidance": options.guidance, "seed": 0, "references": count, "requests": requests}
        | {"upstream": min(requests, options.upstream_requests)}
        for requests in map(int, options.requests.split(","))
        for count in map(int, options.references.split(","))
        for width, height in (size.split("x") for size in options.sizes.split(","))
    ]
    upstream_dtype = fastest_dtype(options, cases[0])
    sides = {
        "ours": Worker("ours", options, options.dtype),
        "upstream": Worker("upstream", options, upstream_dtype),
    }
    rows: list[Row] = []
    for case in cases:
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for repeat in range(options.warmup + options.repeats):
            for side, worker in sides.items():
                answer = worker.run(case | {"seed": repeat})
                if repeat >= options.warmup:
                    runs[side].append(answer)
        rows += compare(case, runs, sides["ours"].ceiling)
    for worker in sides.values():
        worker.close()
    rows += growth(cases, rows)
    dtypes = {side: worker.dtype for side, worker in sides.items()}
    ceiling = {name: float(f"{value:.4g}") for name, value in sides["ours"].ceiling.items()}
    return {"card": card(options, dtypes) | {"ceiling": ceiling}, "rows": rows}


def compare(
    case: Case, runs: dict[str, list[dict[str, float]]], ceiling: dict[str, float]
) -> list[Row]:
    """Put the medians of both sides side by side; a ratio above 1 means ours is better."""
    name, rows = case_name(case), []
    reached = {"denoise": ("denoise_flop", "flop_per_s"), "prior": ("prior_bytes", "bytes_per_s")}
    for metric, key in METRICS.items():
        median = {
            side: statistics.median(answer[key] for answer in answers)
            for side, answers in runs.items()
        }
        ours, upstream = median["ours"], median["upstream"]
        row = record.row(name, metric, ours, upstream)
        if metric in reached:
            counted, unit = reached[metric]
            rate = statistics.median(answer[counted] / answer[key] for answer in runs["ours"])
            row[unit] = float(f"{rate:.4g}")
            row["share_of_ceiling"] = round(rate / ceiling[unit], 3)
        rows.append(row)
        told = f"{ours:14.3f} {upstream:14.3f} {row['ratio']:7.2f}x"
        print(f"{name:24} {metric:18} {told}", file=sys.stderr)
    return rows


def growth(cases: list[Case], rows: list[Row]) -> list[Row]:
    """Put side by side how many times as long each stage takes as in the smallest picture.

    Of cases that differ in nothing but the size.
    """
    grown: list[Row] = []
    taken = {(row["case"], row["metric"]): row for row in rows}
    alike: dict[str, list[Case]] = {}
    for case in cases:
        alike.setdefault(case_name(case).partition(",")[2], []).append(case)
    for same in alike.values():
        smallest, *others = sorted(same, key=lambda case: case["width"] * case["height"])
        for case in others:
            name = f"{case_name(smallest).partition(',')[0]} to {case_name(case)}"
            for metric in list(METRICS)[:4]:
                small, large = (taken[case_name(one), metric] for one in (smallest, case))
                ours, upstream = (large[side] / small[side] for side in ("ours", "upstream"))
                grown.append(record.row(name, f"growth, {metric}", ours, upstream, digits=3))
                print(f"{name} {metric:10} {ours:9.2f} {upstream:9.2f}", file=sys.stderr)
    return grown


def case_name(case: Case) -> str:
    name = f"{case['width']}x{case['height']}, {case['steps']} steps"
    if case["references"]:
        name += f", {case['references']} of 512 px as reference"
    if case["requests"] > 1:
        name += f", {case['requests']} requests at once, a picture"
    return name


def card(options: argparse.Namespace, dtypes: dict[str, str]) -> dict[str, Any]:
    """Say what was measured where."""
    import torch

    return record.card(
        device_name(torch, options.device),
        ("torch", "transformers", "diffusers"),
        threads=options.threads or torch.get_num_threads(),
        model=Path(options.model).name,
        dtypes=dtypes,
        clock="CPU seconds of the process" if options.clock == "cpu" else "wall",
        guidance_scale=options.guidance,
        repeats=options.repeats,
        warmup=options.warmup,
        statistic="median",
    )


def device_name(torch: Any, device: str | None) -> str:
    from glmimage.memory import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return chosen.type + record.processor().removeprefix("cpu")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, a folder, or a Hugging Face id")
    parser.add_argument("--sizes", default="512x512,1024x1024", help="WIDTHxHEIGHT,...")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--references", default="0", help="how many, such as 0,1,4")
    parser.add_argument("--requests", default="1", help="how many wait at once, such as 1,4,16")
    parser.add_argument(
        "--upstream-requests", type=int, default=2, help="of these, how many diffusers makes"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="uncounted pictures of each size")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's own"
    )
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds really computed"
    )
    parser.add_argument("--device", help="cuda, mps or cpu; chosen when not given")
    parser.add_argument("--dtype", default="auto", help="of ours")
    parser.add_argument("--fast", default="", help="compile, of ours")
    parser.add_argument(
        "--upstream-dtypes", default="float32,bfloat16", help="the fastest of them is measured"
    )
    parser.add_argument("--name", default="infer", help="end of the result file's name")
    parser.add_argument("--worker", choices=("ours", "upstream"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    write_result(measure(options), options.name)


if __name__ == "__main__":
    main()
