"""Tables of what bench/ measured, from the JSON files in bench/results/."""

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
STAGES = ("prior", "denoise", "decode", "end to end")
METRICS = {
    "prior": ("prior, s", 1.0),
    "denoise": ("denoise, s", 1.0),
    "decode": ("decode, s", 1.0),
    "end to end": ("end to end, s", 1.0),
    "peak memory": ("peak memory, MB", 1e-6),
    "tokens_per_s": ("prior tokens a second", 1.0),
    "tokens_per_pass": ("prior tokens a pass of a picture", 1.0),
    "pictures a second": ("pictures a second", 1.0),
    "ms a prior token": ("ms a prior token", 1.0),
    "ms a pass with guesses": ("ms a pass of 16 prior tokens", 1.0),
    "ms a denoise step": ("ms a denoise step", 1.0),
    **{f"growth, {stage}": (f"{stage}, times as long", 1.0) for stage in STAGES},
    "word_accuracy": ("word accuracy", 1.0),
    "ned": ("NED", 1.0),
}

# what sizing.py and text_check_table.py show
SHOWN_ELSEWHERE = ("-text-check", "-simulation-")


def read_results(folder: Path) -> list[Result]:
    """Return what was measured, the newest first, but for what other pages show."""
    files = sorted(folder.glob("*.json"), reverse=True)
    shown = [file for file in files if not any(part in file.name for part in SHOWN_ELSEWHERE)]
    return [{"file": file.name, **json.loads(file.read_text("utf-8"))} for file in shown]


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
    """Show the newest day of each model on each device, a picture a line, of the longest runs."""
    newest: dict[tuple[str, str], list[tuple[Result, str, dict[str, Result]]]] = {}
    for result in results:
        for case, rows in _cases(result).items():
            if not rows.keys() >= set(STAGES):
                continue
            card = result["card"]
            found = newest.setdefault((card["model"], card["device"]), [])
            if not found or found[0][0]["card"]["date"] == card["date"]:
                found.append((result, case, rows))
    if not newest:
        return "Nothing is measured yet; `make bench` does it.\n"
    lines = ["| model, machine | picture | prior | denoise | decode | total | diffusers, total |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for (model, device), found in newest.items():
        most = max(_steps(case) for _, case, _ in found)
        for result, case, rows in found:
            if _steps(case) < most:
                continue
            stages = [f"{rows[metric]['ours']:.2f} s" for metric in STAGES]
            measured = rows["end to end"]["upstream"]
            theirs = "not measured" if measured is None else f"{measured:.2f} s"
            machine = f"{model}, {device}" + (", CPU seconds" if _in_cpu_seconds(result) else "")
            lines.append(f"| {' | '.join([machine, case, *stages, theirs])} |")
    page = "[docs/performance.md](docs/performance.md)"
    return "\n".join([*lines, "", f"Every figure with its machine and its command: {page}.", ""])


def _run(result: Result) -> Iterator[str]:
    card = result["card"]
    if "dtypes" not in card:  # only where diffusers, or the exact mode, is the other side
        yield from _measured_alone(result)
        return
    yield f"## {card['model']} on {card['device']}, {card['date']}"
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    compared = any(row["upstream"] is not None for row in result["rows"])
    lossy = any("difference" in row for row in result["rows"])
    own = lossy or "against" in card
    dtypes = "ours on both sides" if own else f"ours in {card['dtypes']['ours']}"
    if compared and not own:
        dtypes += f", diffusers in {card['dtypes']['upstream']}"
    seconds = "; seconds of CPU, not of the clock" if _in_cpu_seconds(result) else ""
    threads = f"{card['threads']} thread{'s' if card['threads'] != 1 else ''}"
    yield f"{card['system']}, {threads}; {dtypes}; {versions}; {card['commit']}; "
    runs = f"{card['repeats']} counted run{'s' if card['repeats'] != 1 else ''}"
    if compared:
        yield f"{runs} a side{seconds}."
    else:
        yield f"{runs}{seconds}; diffusers was not measured."
    if "ceiling" in card:
        flop, moved = card["ceiling"]["flop_per_s"], card["ceiling"]["bytes_per_s"]
        flop_text, moved_text = _rate(flop, "FLOP/s", 0), _rate(moved, "B/s", 1)
        yield f"This machine reached {flop_text} in a large product and "
        yield f"{moved_text} in a copy, measured just before."
    yield ""
    yield f"```sh\n{card['command']}\n```"
    yield f"[{result['file']}](../bench/results/{result['file']})"
    yield ""
    if lossy:
        yield "Each lossy switch beside the exact mode, on the same prompts with the same seeds."
        yield ""
    if "against" in card:
        yield f"Ways of our own, beside {card['against']}."
        yield ""
    theirs, last = ("exact", "difference, 95 %") if lossy else ("diffusers", "ours, of the ceiling")
    if "against" in card:
        theirs, last = card["against"], ""
    aimed = any("target" in row for row in result["rows"])
    columns = ["switched" if own else "ours", *[theirs, "ratio"] * compared]
    columns += [*["to reach"] * aimed, last]
    yield f"| picture | | {' | '.join(columns)} |"
    yield f"| --- | --- |{' --- |' * len(columns)}"
    for case, rows in _cases(result).items():
        for metric, row in rows.items():
            name, unit = METRICS[metric]
            if row["ours"] is None:
                yield f"| {case} | {name} | failed |{' |' * (len(columns) - 1)}"
                continue
            digits = (
                0 if "memory" in metric else 3 if row["ours"] < 0.1 or "difference" in row else 2
            )
            cells = [f"{row['ours'] * unit:.{digits}f}"]
            if compared and row["upstream"] is None:
                cells += ["", ""]
            elif compared:
                cells += [f"{row['upstream'] * unit:.{digits}f}", f"{row['ratio']:.2f}"]
            cells += [*[row.get("target", "")] * aimed, _share(row)]
            yield f"| {case} | {name} | {' | '.join(cells)} |"


def _measured_alone(result: Result) -> Iterator[str]:
    """Show a run that nothing is compared with, beside what was to be reached."""
    card = result["card"]
    name = result["file"].removesuffix(".json").rpartition("-")[2]
    yield f"## {name} on {card['device'] or card['system']}, {card['date']}"
    yield ""
    yield f"```sh\n{card['command']}\n```"
    yield f"[{result['file']}](../bench/results/{result['file']})"
    yield ""
    yield "| case | | measured | to reach |"
    yield "| --- | --- | --- | --- |"
    for row in result["rows"]:
        yield f"| {row['case']} | {row['metric']} | {row['ours']:.4g} | {row.get('target', '')} |"


def _share(row: Result) -> str:
    """Say what was reached beside what the machine can do, or how sure a difference is."""
    if "difference" in row:
        low, high = row["ci95"]
        return f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    for unit, word in (("flop_per_s", "FLOP/s"), ("bytes_per_s", "B/s")):
        if unit in row:
            return f"{_rate(row[unit], word)}, {row['share_of_ceiling']:.0%}"
    return ""


def _rate(value: float, unit: str, digits: int | None = None) -> str:
    """Write a rate in billions, or from a thousand billions on in those."""
    if value >= 1e12:
        return f"{value / 1e12:.3g} T{unit}"
    number = f"{value / 1e9:.3g}" if digits is None else f"{value / 1e9:.{digits}f}"
    return f"{number} G{unit}"


def _in_cpu_seconds(result: Result) -> bool:
    return "CPU" in result["card"].get("clock", "")


def _steps(case: str) -> int:
    return int(case.split(" steps", maxsplit=1)[0].rsplit(" ", 1)[1])


def _cases(result: Result) -> dict[str, dict[str, Result]]:
    cases: dict[str, dict[str, Result]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], {})[row["metric"]] = row
    return cases
