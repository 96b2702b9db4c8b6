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
    """Return what was measured against diffusers, the newest first; others have no upstream."""
    files = sorted(folder.glob("*.json"), reverse=True)
    results = [{"file": file.name, **json.loads(file.read_text("utf-8"))} for file in files]
    return [result for result in results if all("upstream" in row for row in result["rows"])]


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
            machine = f"{model}, {device}" + (", CPU seconds" if _in_cpu_seconds(result) else "")
            lines.append(f"| {' | '.join([machine, case, *stages, theirs])} |")
    page = "[docs/performance.md](docs/performance.md)"
    return "\n".join([*lines, "", f"Every figure with its machine and its command: {page}.", ""])


def _run(result: Result) -> Iterator[str]:
    card = result["card"]
    if not any("upstream" in row for row in result["rows"]):
        yield from _measured_alone(result)
        return
    yield f"## {card['model']} on {card['device']}, {card['date']}"
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    dtypes = f"ours in {card['dtypes']['ours']}, diffusers in {card['dtypes']['upstream']}"
    seconds = "; seconds of CPU, not of the clock" if _in_cpu_seconds(result) else ""
    threads = f"{card['threads']} thread{'s' if card['threads'] != 1 else ''}"
    yield f"{card['system']}, {threads}; {dtypes}; {versions}; {card['commit']}; "
    yield f"{card['repeats']} counted runs a side{seconds}."
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


def _measured_alone(result: Result) -> Iterator[str]:
    """Show a run that nothing is compared with, beside what was to be reached."""
    card = result["card"]
    name = result["file"].removesuffix(".json").rpartition("-")[2]
    yield f"## {name} on {card.get('device', card['system'])}, {card['date']}"
    yield ""
    yield f"```sh\n{card['command']}\n```"
    yield f"[{result['file']}](../bench/results/{result['file']})"
    yield ""
    yield "| case | | measured | to reach |"
    yield "| --- | --- | --- | --- |"
    for row in result["rows"]:
        yield f"| {row['case']} | {row['metric']} | {row['ours']:.4g} | {row.get('target', '')} |"


def _in_cpu_seconds(result: Result) -> bool:
    return "CPU" in result["card"].get("clock", "")


def _cases(result: Result) -> dict[str, dict[str, Result]]:
    cases: dict[str, dict[str, Result]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], {})[row["metric"]] = row
    return cases
