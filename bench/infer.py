"""Measure glmimage against diffusers' GlmImagePipeline: same checkpoint, same run, in turn.

    python bench/infer.py --model nano --sizes 512x512,1024x1024 --steps 30 --repeats 5

Each side lives in its own process, which stays for the whole run; the two are measured one after
the other, again and again, so that whatever else the machine does falls on both. The first pictures
of a size are not counted. Peak memory is that of the process so far. diffusers runs in the fastest
of the dtypes tried on this machine. On a machine that others use as well, `--clock cpu --threads 1`
counts the seconds that each process has really computed. The last line of the output is the JSON
that is also written to bench/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Python looks for modules beside the script first, and finds a queue.py there that is not its own
sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT / "bench"]
PROMPT = "A conference poster with the headline 'AI Summit 2026' in bold sans-serif"
STAGES = ("prior_s", "denoise_s", "decode_s", "total_s")
Case = dict[str, Any]


def references(case: Case) -> tuple[Any, ...]:
    """Draw the case's references, 512 px each."""
    from PIL import Image

    shades = (Image.linear_gradient("L").rotate(90 * turn) for turn in range(case["references"]))
    return tuple(shade.resize((512, 512)).convert("RGB") for shade in shades)


def mend_references(pipe: Any) -> None:
    """Let diffusers 0.42.1 read references with transformers 5.23, which shapes them otherwise."""
    encoder = pipe.vision_language_encoder
    features_of = encoder.get_image_features

    def get_image_features(*arguments: Any, **options: Any) -> Any:
        output = features_of(*arguments, **options)
        if "return_dict" not in options:  # called by diffusers, not by generate()
            output.pooler_output = [one.flatten(1).T for one in output.pooler_output]
        return output

    def get_image_tokens(features: Any, grids: Any) -> Any:
        parts = features.split(grids.prod(-1).tolist())
        sizes = grids[:, 1:].tolist()
        maps = [part.T.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]
        return encoder.model.get_image_tokens(maps)

    encoder.get_image_features = get_image_features
    encoder.get_image_tokens = get_image_tokens


class Ours:
    """Run glmimage as a user of the library does."""

    def __init__(self, options: argparse.Namespace, dtype: str) -> None:
        from glmimage import Pipeline

        self.pipe = Pipeline.load(
            options.model, options.device, None if dtype == "auto" else dtype, "resident"
        )
        self.device, dtypes = self.pipe.stages.device, self.pipe.stages.dtypes
        self.dtype = f"{dtypes.prior} prior, {dtypes.decode} decoder"

    def run(self, case: Case) -> dict[str, float]:
        started = time.perf_counter()
        result = self.pipe.generate(
            PROMPT,
            width=case["width"],
            height=case["height"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance"],
            seed=case["seed"],
            source_images=references(case),
        )
        return {**result.timings, "total_s": time.perf_counter() - started}


class Upstream:
    """Run the reference pipeline with a plain call; its stages are timed from outside."""

    def __init__(self, options: argparse.Namespace, dtype: str) -> None:
        import torch
        from diffusers import GlmImagePipeline

        from glmimage.loading.checkpoint import resolve_model
        from glmimage.memory import choose_device

        self.device, self.dtype = choose_device(options.device), dtype
        self.pipe = GlmImagePipeline.from_pretrained(
            resolve_model(options.model), dtype=getattr(torch, dtype)
        ).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        mend_references(self.pipe)
        self.spent: dict[str, float] = {}
        self._time(self.pipe, "generate_prior_tokens", "prior_s")
        self._time(self.pipe.vae, "decode", "decode_s")
        self._time(self.pipe.image_processor, "postprocess", "decode_s")

    def _time(self, owner: Any, name: str, stage: str) -> None:
        from glmimage.memory import synchronize

        call = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            synchronize(self.device)
            started = time.perf_counter()
            result = call(*arguments, **options)
            synchronize(self.device)
            self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - started
            return result

        setattr(owner, name, timed)

    def run(self, case: Case) -> dict[str, float]:
        import torch

        self.spent = {}
        started = time.perf_counter()
        self.pipe(
            PROMPT,
            height=case["height"],
            width=case["width"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance"],
            generator=torch.Generator(self.device).manual_seed(case["seed"]),
            image=list(references(case)) or None,
        )
        total = time.perf_counter() - started
        rest = total - self.spent["prior_s"] - self.spent["decode_s"]
        return {**self.spent, "denoise_s": rest, "total_s": total}


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
    print(json.dumps({"dtype": side.dtype.replace("torch.", "")}), file=answers, flush=True)
    for line in sys.stdin:
        answer = side.run(json.loads(line))
        answer["peak_memory_bytes"] = peak_memory(torch, side.device)
        print(json.dumps(answer), file=answers, flush=True)


def peak_memory(torch: Any, device: Any) -> float:
    """Return the most the process has held so far: on the device, or in RAM on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Worker:
    """One side in its own process."""

    def __init__(self, side: str, options: argparse.Namespace, dtype: str) -> None:
        arguments = [sys.executable, __file__, "--worker", side, "--dtype", dtype]
        arguments += ["--model", options.model, "--threads", str(options.threads)]
        arguments += ["--clock", options.clock]
        arguments += ["--device", options.device] if options.device else []
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.dtype = self._answer()["dtype"]

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
    for dtype in dtypes:
        worker = Worker("upstream", options, dtype)
        worker.run(case)
        seconds[dtype] = min(worker.run(case)["total_s"] for _ in range(2))
        worker.close()
        print(f"diffusers in {dtype}: {seconds[dtype]:.2f} s", file=sys.stderr)
    return min(seconds, key=lambda dtype: seconds[dtype])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all cases in turn and return the card and the rows."""
    cases = [
        {"width": int(width), "height": int(height), "steps": options.steps}
        | {"guidance": options.guidance, "seed": 0, "references": count}
        for count in map(int, options.references.split(","))
        for width, height in (size.split("x") for size in options.sizes.split(","))
    ]
    upstream_dtype = fastest_dtype(options, cases[0])
    sides = {
        "ours": Worker("ours", options, options.dtype),
        "upstream": Worker("upstream", options, upstream_dtype),
    }
    rows: list[dict[str, Any]] = []
    for case in cases:
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for repeat in range(options.warmup + options.repeats):
            for side, worker in sides.items():
                answer = worker.run(case | {"seed": repeat})
                if repeat >= options.warmup:
                    runs[side].append(answer)
        rows += compare(case, runs)
    for worker in sides.values():
        worker.close()
    dtypes = {side: worker.dtype for side, worker in sides.items()}
    return {"card": card(options, dtypes), "rows": rows}


def compare(case: Case, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Put the medians of both sides side by side; a ratio above 1 means ours is better."""
    name = f"{case['width']}x{case['height']}, {case['steps']} steps"
    if case["references"]:
        name += f", {case['references']} of 512 px as reference"
    rows = []
    for metric in (*STAGES, "peak_memory_bytes"):
        median = {
            side: statistics.median(answer[metric] for answer in answers)
            for side, answers in runs.items()
        }
        ours, upstream = median["ours"], median["upstream"]
        ratio = round(upstream / ours, 3)
        rows.append(
            {"case": name, "metric": metric, "ours": round(ours, 4)}
            | {"upstream": round(upstream, 4), "ratio": ratio}
        )
        print(f"{name:24} {metric:18} {ours:14.3f} {upstream:14.3f} {ratio:7.2f}x", file=sys.stderr)
    return rows


def card(options: argparse.Namespace, dtypes: dict[str, str]) -> dict[str, Any]:
    """Say what was measured where."""
    from importlib.metadata import version

    import torch

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "bench")
    packages = ("glmimage", "torch", "transformers", "diffusers")
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(torch, options.device),
        "threads": options.threads or torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "commit": git("rev-parse", "HEAD")[:12] + ("+changes" if changed else ""),
        "command": shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "model": Path(options.model).name,
        "dtypes": dtypes,
        "clock": "CPU seconds of the process" if options.clock == "cpu" else "wall",
        "guidance_scale": options.guidance,
        "repeats": options.repeats,
        "warmup": options.warmup,
        "statistic": "median",
    }


def device_name(torch: Any, device: str | None) -> str:
    from glmimage.memory import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{chosen.type}: {found[1] if found else platform.processor()}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, a folder, or a Hugging Face id")
    parser.add_argument("--sizes", default="512x512,1024x1024", help="WIDTHxHEIGHT,...")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--references", default="0", help="how many, such as 0,1,4")
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


def write_result(result: dict[str, Any], name: str) -> None:
    """Write the JSON to bench/results/ and print it."""
    kind = re.sub(r"[^a-z0-9]+", "-", result["card"]["device"].lower()).strip("-")
    file = ROOT / "bench" / "results" / f"{result['card']['date']}-{kind}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {file.relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
