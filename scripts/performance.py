"""Tables of what bench/infer.py measured, from the JSON files in bench/results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]
INTRODUCTION = (
    "Ours and diffusers' plain `GlmImagePipeline`, a picture of the one and a picture of the other "
    "in turn, in the same run, on the same checkpoint; diffusers in the fastest of the number "
    "formats tried. Medians. A ratio above 1 is in our favour. `make bench` measures anew."
)
STAGES = ("prior_s", "denoise_s", "decode_s", "total_s")
METRICS = {
    "prior_s": ("prior, s", 1.0),
    "denoise_s": ("denoise, s", 1.0),
    "decode_s": ("decode, s", 1.0),
    "total_s": ("total, s", 1.0),
    "peak_memory_bytes": ("peak memory, MB", 1e-6),
    "tokens_per_s": ("prior tokens a second", 1.0),
    "tokens_per_pass": ("prior tokens a pass of a picture", 1.0),
    "pictures_per_s": ("pictures a second", 1.0),
}


def read_results(folder: Path) -> list[Result]:
    """Return all results, the newest first."""
    files = sorted(folder.glob("*.json"), reverse=True)
    return [{"file": file.name, **json.loads(file.read_text("utf-8"))} for file in files]


def performance_page(note: str, results: list[Result]) -> str:
    """Show every run: its machine, its command, and both sides of every number."""
    lines = [
        note,
        "# Performance",
        INTRODUCTION,
    ]
    for result in results:
        lines += ["", *_run(result)]
    if not results:
        lines += ["", "Nothing is measured yet."]
    return "\n".join([*lines, ""])


def readme_table(results: list[Result]) -> str:
    """Show the newest run of each model on each device, a picture a line."""
    newest: dict[tuple[str, str], Result] = {}
    for result in results:
        if not any(row["metric"] == "total_s" for row in result["rows"]):
            continue
        newest.setdefault((result["card"]["model"], result["card"]["device"]), result)
    if not newest:
        return "Nothing is measured yet; `make bench` does it.\n"
    lines = ["| model, machine | picture | prior | denoise | decode | total | diffusers, total |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for (model, device), result in newest.items():
        for case, rows in _cases(result).items():
            stages = [f"{rows[metric]['ours']:.2f} s" for metric in STAGES]
            theirs = f"{rows['total_s']['upstream']:.2f} s"
            lines.append(f"| {' | '.join([f'{model}, {device}', case, *stages, theirs])} |")
    page = "[docs/performance.md](docs/performance.md)"
    return "\n".join([*lines, "", f"Every figure with its machine and its command: {page}.", ""])


def _run(result: Result) -> Iterator[str]:
    card = result["card"]
    yield f"## {card['model']} on {card['device']}, {card['date']}"
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    dtypes = f"ours in {card['dtypes']['ours']}, diffusers in {card['dtypes']['upstream']}"
    seconds = "; seconds of CPU, not of the clock" if "CPU" in card.get("clock", "") else ""
    threads = f"{card['threads']} thread{'s' if card['threads'] != 1 else ''}"
    yield f"{card['system']}, {threads}; {dtypes}; {versions}; {card['commit']}{seconds}."
    yield ""
    yield f"```sh\n{card['command']}\n```"
    yield f"[{result['file']}](../bench/results/{result['file']})"
    yield ""
    yield "| picture | | ours | diffusers | ratio |"
    yield "| --- | --- | --- | --- | --- |"
    for case, rows in _cases(result).items():
        for metric, row in rows.items():
            name, unit = METRICS[metric]
            digits = 0 if "memory" in metric else 2
            ours, theirs = (f"{row[side] * unit:.{digits}f}" for side in ("ours", "upstream"))
            yield f"| {case} | {name} | {ours} | {theirs} | {row['ratio']:.2f} |"


def _cases(result: Result) -> dict[str, dict[str, Result]]:
    cases: dict[str, dict[str, Result]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], {})[row["metric"]] = row
    return cases
