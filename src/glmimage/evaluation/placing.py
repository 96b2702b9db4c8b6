"""Say where type stands: top, middle or bottom; left, center or right."""

from __future__ import annotations

from collections.abc import Sequence

from .reading import Line

POSITIONS = ("top", "middle", "bottom")
ALIGNMENTS = ("left", "center", "right")
WIDE = 0.72
"""Part of the picture's width from which a line leaves no room to be aligned."""
CENTERED = 0.1
"""Part of the picture's width by which the margins of a centred line may differ."""


def union_box(lines: Sequence[Line]) -> tuple[float, float, float, float]:
    """Return the box around some lines."""
    left, top, right, bottom = zip(*(line.box for line in lines), strict=True)
    return min(left), min(top), max(right), max(bottom)


def find_position(lines: Sequence[Line], height: int) -> str:
    """Return the third of the picture in which the middle of the lines is."""
    _, top, _, bottom = union_box(lines)
    return POSITIONS[min(2, int((top + bottom) / 2 / height * 3))]


def is_aligned(lines: Sequence[Line], width: int, asked: str) -> bool:
    """Say whether every line stands left, center or right; a very wide line stands everywhere.

    Left: the left margin is the smaller by more than `CENTERED`, and lines begin together.
    """
    boxes = [line.box for line in _rows(lines)]
    free = [box for box in boxes if box[2] - box[0] < WIDE * width]
    leans = [(width - box[2] - box[0]) / width for box in free]  # right margin - left margin
    if asked == "center":
        return all(abs(lean) <= CENTERED for lean in leans)
    edge, sign = (0, 1) if asked == "left" else (2, -1)
    edges = [box[edge] / width for box in boxes]
    together = max(edges) - min(edges) <= CENTERED
    return together and all(lean * sign > CENTERED for lean in leans)


def _rows(lines: Sequence[Line]) -> list[Line]:
    """Join what stands side by side."""
    rows: list[Line] = []
    for line in sorted(lines, key=lambda one: one.box[1] + one.box[3]):
        if rows and (line.box[1] + line.box[3]) / 2 < rows[-1].box[3]:
            rows[-1] = Line(f"{rows[-1].text} {line.text}", union_box([rows[-1], line]))
        else:
            rows.append(line)
    return rows
