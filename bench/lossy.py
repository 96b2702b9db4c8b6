"""Measure what each lossy switch costs in text and gains in time: the same prompts, the same seeds.

    python bench/lossy.py --first 40 --minutes 8

Paints and reads the set with every switch through `glmimage eval text`, which keeps every picture:
a run that stops at --minutes goes on where it was. When all are complete the result is written to
bench/results/. `upstream` is the exact mode; a difference of an accuracy has the 95 % interval of
the pairs beside it. Seconds are of the process, loading apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import infer
import record

STEPS = 30
# name -> (switches, steps)
MODES = {
    "exact": ("", STEPS),
    "20 steps": ("", 20),
    "12 steps": ("", 12),
    "guidance on the first 60 % of the steps": ("guidance=0-0.6", STEPS),
    "guidance on the last 60 % of the steps": ("guidance=0.4-1", STEPS),
    "step cache 0.05": ("step_cache=0.05", STEPS),
    "step cache 0.12": ("step_cache=0.12", STEPS),
    "int8 weights": ("weights=int8", STEPS),
    "fp8 weights": ("weights=fp8", STEPS),
    "int4 weights": ("weights=int4", STEPS),
    "guidance 60 %, step cache 0.05, int8": ("weights=int8,guidance=0-0.6,step_cache=0.05", STEPS),
}
ACCURACIES = ("word_accuracy", "ned")


def evaluate(options: Any, name: str, until: float) -> dict[str, Any] | None:
    """Paint and read one mode's pictures; return its report, or None when the time was over."""
    lossy, steps = MODES[name]
    folder = Path(options.out) / name.replace(" ", "_").replace("%", "percent").replace(",", "")
    report = folder / f"{Path(options.set).stem}-512x512.json"
    if report.exists() and json.loads(report.read_text())["num_prompts"] >= options.first:
        return json.loads(report.read_text())
    command = [sys.executable, "-m", "glmimage", "eval", "text", options.set, "--out", str(folder)]
    command += ["--first", str(options.first), "--size", "512x512", "--steps", str(steps)]
    command += ["--model", options.model, "--json", "--lossy", lossy]
    exact = Path(options.out) / "exact" / f"{report.stem}.jsonl"
    if name != "exact":
        command += ["--compare", str(exact)]
    try:
        left = max(1.0, until - time.monotonic())
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def seconds(options: Any, name: str) -> float:
    """Return the CPU seconds of one picture, the least of two."""
    from glmimage import Pipeline

    lossy, steps = MODES[name]
    taken = []
    with Pipeline.load(options.model, lossy=lossy) as pipe:
        for seed in range(3):
            began = time.process_time()
            pipe.generate(infer.PROMPT, width=512, height=512, seed=seed, num_inference_steps=steps)
            taken.append(time.process_time() - began)
    return min(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, a folder, or a Hugging Face id")
    parser.add_argument("--set", default=str(infer.ROOT / "recipes/nano/eval/one_line.json"))
    parser.add_argument("--first", type=int, default=40, help="prompts of the set")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", default="out/lossy", help="pictures and readings are kept here")
    parser.add_argument("--modes", default="", help="some of them, separated by semicolons")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    chosen = [name.strip() for name in options.modes.split(";") if name.strip()] or list(MODES)
    if unknown := set(chosen) - set(MODES):
        raise SystemExit(f"There is no mode {sorted(unknown)[0]!r}; known: {'; '.join(MODES)}.")
    rows, exact_s = [], 0.0
    for name in dict.fromkeys(["exact", *chosen]):
        report = evaluate(options, name, until)
        if report is None:
            print(f"{name}: the time is over; run again to go on", file=sys.stderr)
            return
        figures = report.get("compared_with", {}).get("figures", {})
        taken = seconds(options, name)
        exact_s = exact_s or taken
        for metric in ACCURACIES:
            ours = report["figures"][metric]["mean"]
            pair = figures.get(metric, {"old": ours, "difference": 0.0, "ci95": [0.0, 0.0]})
            sure = {key: pair[key] for key in ("ci95", "difference")}
            rows.append(record.row(name, metric, ours, pair["old"], **sure))
        rows.append(record.row(name, "end to end", taken, exact_s, digits=3))
        print(*(f"{r['metric']} {r['ours']:.3f}" for r in rows[-3:]), name, file=sys.stderr)
    given = SimpleNamespace(model=options.model, device=None, threads=0, clock="cpu", guidance=1.5)
    given.repeats, given.warmup = 2, 1
    dtypes = {"ours": "each mode", "upstream": "the exact mode"}
    infer.write_result({"card": infer.card(given, dtypes), "rows": rows}, "lossy")


if __name__ == "__main__":
    main()
