"""Figures of many verdicts: means with intervals, by condition, and against an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .judge import Verdict

NUM_DRAWS = 2000
GROUPS = {
    "colours": ("background", "gradient", "text_color"),
    "layout": ("position", "alignment", "style", "weight"),
}
"""Measures that are also told together."""
TITLES = {
    "word_accuracy": "word accuracy",
    "ned": "NED",
    "whole_strings": "whole strings",
    "no_extra_words": "no extra words",
    "colours": "colours as asked",
    "background": "background",
    "gradient": "gradient",
    "text_color": "text colour",
    "layout": "position, alignment, style as asked",
    "position": "position",
    "alignment": "alignment",
    "style": "style",
    "weight": "weight",
    "edit": "edit: change made, rest kept",
    "edit_made": "change made",
    "edit_kept": "rest kept",
}
BY_CONDITION = ("word_accuracy", "ned", "colours", "layout", "edit", "edit_made", "edit_kept")

Figure = dict[str, Any]


def measures(verdict: Verdict) -> dict[str, list[float]]:
    """Return the values of a verdict, with the groups."""
    values = dict(verdict.values)
    for name, members in GROUPS.items():
        together = [one for member in members for one in values.get(member, ())]
        if together:
            values[name] = together
    return values


def summarise(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the figure of every measure, and those of each condition.

    A figure is the mean over words, strings or pictures, with the bootstrap 95 % interval over
    prompts, in the order of `TITLES`.
    """
    conditions: dict[str, dict[str, dict[str, Figure]]] = {}
    for name in dict.fromkeys(name for verdict in verdicts for name in verdict.conditions):
        values = sorted({v.conditions[name] for v in verdicts if name in v.conditions})
        conditions[name] = {
            value: {
                measure: figure
                for measure, figure in _figures(
                    [v for v in verdicts if v.conditions.get(name) == value]
                ).items()
                if measure in BY_CONDITION
            }
            for value in values
        }
    return {
        "num_prompts": len(verdicts),
        "figures": _figures(verdicts),
        "conditions": conditions,
    }


def _figures(verdicts: Sequence[Verdict]) -> dict[str, Figure]:
    rows = [measures(verdict) for verdict in verdicts]
    return {name: _figure(name, rows) for name in TITLES if any(name in row for row in rows)}


def _figure(name: str, rows: Sequence[Mapping[str, list[float]]]) -> Figure:
    sums, counts = _totals(name, rows)
    low, high = _interval(_draw_means(sums, counts, _draws(len(sums))))
    return {
        "mean": round(float(sums.sum() / counts.sum()), 4),
        "ci95": [low, high],
        "num_values": int(counts.sum()),
        "num_prompts": len(sums),
    }


def _totals(
    name: str, rows: Iterable[Mapping[str, list[float]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lists = [row[name] for row in rows if row.get(name)]
    return np.array([sum(one) for one in lists]), np.array([float(len(one)) for one in lists])


def _draws(num: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(num, size=(NUM_DRAWS, num))


def _draw_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    means: NDArray[np.float64] = sums[draws].sum(1) / counts[draws].sum(1)
    return means


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def compare(old: Sequence[Verdict], new: Sequence[Verdict]) -> dict[str, Figure]:
    """Return new minus old for every measure, on the prompts of both, drawn in pairs."""
    earlier = {verdict.id: measures(verdict) for verdict in old}
    pairs = [(earlier[v.id], measures(v)) for v in new if v.id in earlier]
    differences: dict[str, Figure] = {}
    for name in TITLES:
        both = [(a, b) for a, b in pairs if a.get(name) and b.get(name)]
        if not both:
            continue
        before, after = (_totals(name, side) for side in zip(*both, strict=True))
        draws = _draws(len(both))
        drawn = _draw_means(*after, draws) - _draw_means(*before, draws)
        means = [float(sums.sum() / counts.sum()) for sums, counts in (before, after)]
        differences[name] = {
            "old": round(means[0], 4),
            "new": round(means[1], 4),
            "difference": round(means[1] - means[0], 4),
            "ci95": list(_interval(drawn)),
            "num_prompts": len(both),
        }
    return differences


def as_markdown(summary: Mapping[str, Any], comparison: Mapping[str, Figure] | None = None) -> str:
    """Return the figures as tables."""
    lines = [
        "| measure | value | 95 % interval | values | prompts |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in summary["figures"].items():
        numbers = one["num_values"], one["num_prompts"]
        lines.append(_row(TITLES[name], f"{one['mean']:.3f}", _range(one), *numbers))
    for condition, values in summary["conditions"].items():
        names = [name for name in BY_CONDITION if any(name in one for one in values.values())]
        lines += ["", _row(condition, "prompts", *(TITLES[name] for name in names))]
        lines.append("|" + " --- |" * (len(names) + 2))
        for value, one in values.items():
            cells = [f"{one[n]['mean']:.3f} ({_range(one[n])})" if n in one else "" for n in names]
            lines.append(_row(value, max(f["num_prompts"] for f in one.values()), *cells))
    if comparison:
        lines += ["", "| against the earlier run | old | new | difference | 95 % interval |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for name, one in comparison.items():
            means = f"{one['old']:.3f}", f"{one['new']:.3f}", f"{one['difference']:+.3f}"
            lines.append(
                _row(TITLES[name], *means, f"{one['ci95'][0]:+.3f} to {one['ci95'][1]:+.3f}")
            )
    return "\n".join(lines) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _range(figure: Figure) -> str:
    return f"{figure['ci95'][0]:.3f} to {figure['ci95'][1]:.3f}"
