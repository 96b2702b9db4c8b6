"""The table of docs/nano.md that says what `best_of` does for the words, from bench/results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = "python bench/text_check.py"


def text_check_table(folder: Path) -> str:
    """Show the newest measurement of all prompts, or say that there is none."""
    files = sorted(folder.glob("*-text-check.json"))
    if not files:
        return f"Not measured yet: `{COMMAND}`.\n"
    result = json.loads(files[-1].read_text("utf-8"))
    return "\n".join([*_introduction(result["card"]), *_table(result["rows"]), ""])


def _introduction(card: dict[str, Any]) -> Iterator[str]:
    width, height = card["size"]
    yield (
        f"{card['prompts']} prompts of `{card['set'].partition(',')[0]}` with {card['words']} "
        f"words, {width}x{height}, {card['num_inference_steps']} steps; {card['chooser']} chooses, "
        f"{card['judge']} judges what was chosen. `{card['command']}`, {card['date']}, "
        f"{card['model']}."
    )
    yield ""


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = (
        "word accuracy (95 % interval)",
        "gain (95 % interval)",
        "NED",
        "pictures with all words",
    )
    yield f"| `best_of` | {' | '.join(columns)} | word accuracy as the chooser reads it |"
    yield "| --- |" + " --- |" * (len(columns) + 1)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        number, _, reader = row["case"].removeprefix("best of ").partition(", ")
        found.setdefault(number, {})[f"{reader}: {row['metric']}"] = row
    for number, figures in found.items():
        judged = figures["as the judge reads: word_accuracy"]
        gain = ""
        if "gain" in judged:
            gain = f"{judged['gain']:+.3f} {_interval(judged['gain_interval'])}"
        ned = figures["as the judge reads: ned"]["ours"]
        whole = figures["as the judge reads: pictures with all words"]["ours"]
        chooser = figures["as the chooser reads: word_accuracy"]["ours"]
        accuracy = f"{judged['ours']:.3f} {_interval(judged['interval'])}"
        yield f"| {number} | {accuracy} | {gain} | {ned:.3f} | {whole} | {chooser:.3f} |"
    for number, figures in found.items():
        if best := figures.get("chosen by the judge itself: word_accuracy"):
            yield f"| {number}, chosen by the judge itself | {best['ours']:.3f} | | | | |"


def _interval(bounds: list[float]) -> str:
    low, high = bounds
    return f"({low:.3f} to {high:.3f})"
