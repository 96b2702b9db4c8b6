"""The table of docs/operations.md that says how long requests wait, from bench/results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = {
    "requests a day": "requests a day",
    "wait of normal, p95, s": "normal waits, p95",
    "wait of low, p95, s": "low waits, p95",
    "until the picture, p50, s": "picture, p50",
    "until the picture, p95, s": "picture, p95",
    "utilisation, prior": "prior busy",
    "utilisation, decode": "decode busy",
}


def sizing_table(folder: Path) -> str:
    """Show the newest simulation, and beneath it the newest comparison with a real service."""
    return _cases(_newest(folder, "cluster")) + _check(_newest(folder, "cluster-check"))


def _newest(folder: Path, kind: str) -> dict[str, Any] | None:
    files = sorted(folder.glob(f"*-simulation-{kind}.json"))
    found: dict[str, Any] | None = json.loads(files[-1].read_text("utf-8")) if files else None
    return found


def _cases(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    cases: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], {})[row["metric"]] = row["ours"]
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "| --- |" + " --- |" * len(COLUMNS)]
    for case, values in cases.items():
        shown = [_shown(name, values[name]) for name in COLUMNS]
        lines.append(f"| {case} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: float) -> str:
    if name.startswith("utilisation"):
        return f"{100 * value:.0f} %"
    return f"{value:.1f} s" if name.endswith(", s") else f"{value:,.0f}"


def _check(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    lines = ["", "Against a real service on the toy checkpoint, requests at the same times:", ""]
    lines += ["| | | real | simulated |", "| --- | --- | --- | --- |"]
    for row in result["rows"]:
        case = row["case"].removeprefix("check: ")
        what = row["metric"].removesuffix(", s")
        lines.append(f"| {case} | {what} | {row['ours']:.2f} s | {row['simulated']:.2f} s |")
    return "\n".join(lines) + "\n"
