"""Judge one picture against its row: words, colours, places, lettering; for edits see `edits`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from . import edits
from .colours import Floats, background_colours, is_colour, name_colour, text_colour, to_lab
from .lettering import tell_lettering
from .placing import find_position, is_aligned
from .reading import Line
from .rows import Asked, Row
from .words import assign_lines, score_words


class Reads(Protocol):
    def read(self, picture: Image.Image) -> tuple[Line, ...]: ...


@dataclass(frozen=True)
class Verdict:
    """Hold what was found out about one picture.

    values: for each measure its numbers, 0 to 1, one a word, a string or a picture. measured: what
    was seen instead, for people. read: the lines, with their boxes.
    """

    id: str
    conditions: dict[str, str]
    values: dict[str, list[float]]
    measured: dict[str, Any] = field(default_factory=dict)
    read: list[list[Any]] = field(default_factory=list)


def judge(
    picture: Image.Image, row: Row, reader: Reads, sources: Sequence[Image.Image] = ()
) -> Verdict:
    """Compare a picture with what its row asks for; sources: the references of an edit."""
    lines = reader.read(picture)
    lab = to_lab(np.asarray(picture.convert("RGB")))
    scores = score_words(row.texts, lines)
    values: dict[str, list[float]] = {}
    if row.texts:
        values["word_accuracy"] = [float(found) for found in scores.found]
        values["ned"] = [round(value, 4) for value in scores.ned]
        values["whole_strings"] = [float(one) for one in scores.exact]
        values["no_extra_words"] = [float(not scores.extra)]
    measured: dict[str, Any] = {}
    checks = check_asked(lab, row.texts, row.asked, lines, measured)
    if row.change is not None:
        result = edits.Picture(lab, lines)
        before = [edits.Picture(to_lab(np.asarray(one.convert("RGB")))) for one in sources]
        made, kept = edits.check_change(row, result, before, sources, reader.read, scores)
        made |= {name: all(found) for name, found in checks.items()}
        measured |= {"made": made, "kept": kept}
        verdicts = {"edit_made": all(made.values()), "edit_kept": all(kept.values())}
        verdicts["edit"] = all(verdicts.values())
        values |= {name: [float(verdict)] for name, verdict in verdicts.items()}
    else:
        values |= {name: [float(one) for one in found] for name, found in checks.items()}
    read: list[list[Any]] = [[line.text, [round(side) for side in line.box]] for line in lines]
    return Verdict(row.id, dict(row.conditions), values, measured, read)


def check_asked(
    lab: Floats,
    texts: Sequence[str],
    asked: Asked,
    lines: Sequence[Line],
    measured: dict[str, Any],
) -> dict[str, list[bool]]:
    """Return the verdict on everything asked for; `measured` gets what was seen.

    A string that cannot be read stands nowhere; the first is looked for in the largest line.
    """
    checks: dict[str, list[bool]] = {}
    own = assign_lines(texts, lines)
    first = own[0] if own and own[0] else sorted(lines, key=lambda line: line.height)[-1:]
    if asked.background:
        checks["background"] = [_has_background(lab, lines, asked.background, measured)]
    if asked.gradient:
        checks["gradient"] = [_has_gradient(lab, lines, asked.gradient, measured)]
    if asked.text_color:
        ink = text_colour(lab, first)
        measured["text_color"] = None if ink is None else name_colour(ink)
        checks["text_color"] = [ink is not None and is_colour(ink, asked.text_color)]
    if any(asked.positions):
        places = [find_position(o, lab.shape[0]) if o else None for o in [first, *own[1:]]]
        measured["positions"] = places
        pairs = zip(asked.positions, places, strict=False)
        checks["position"] = [place == wanted for wanted, place in pairs if wanted]
    if asked.alignment:
        known = [line for some in own for line in some] or first
        aligned = bool(known) and is_aligned(known, lab.shape[1], asked.alignment)
        checks["alignment"] = [aligned]
    if asked.style or asked.weight:
        lettering = tell_lettering(lab, first)
        measured["lettering"] = lettering
        if asked.style:
            checks["style"] = [lettering is not None and lettering[0] == asked.style]
        if asked.weight:
            checks["weight"] = [lettering is not None and lettering[1] == asked.weight]
    return checks


def _has_background(
    lab: Floats, lines: Sequence[Line], asked: str, measured: dict[str, Any]
) -> bool:
    colours = background_colours(lab, lines)
    measured["background"] = [name_colour(one) for one in colours]
    return any(is_colour(one, asked) for one in colours)


def _has_gradient(
    lab: Floats, lines: Sequence[Line], asked: tuple[str, str], measured: dict[str, Any]
) -> bool:
    """Say whether two opposite edges or corners have the colours, whichever is where."""
    height, width = lab.shape[:2]
    y, x = max(1, height // 16), max(1, width // 16)
    parts = {
        "top": lab[:y],
        "bottom": lab[-y:],
        "left": lab[:, :x],
        "right": lab[:, -x:],
        "top left": lab[: 2 * y, : 2 * x],
        "bottom right": lab[-2 * y :, -2 * x :],
        "bottom left": lab[-2 * y :, : 2 * x],
        "top right": lab[: 2 * y, -2 * x :],
    }
    seen = {name: np.median(part.reshape(-1, 3), axis=0) for name, part in parts.items()}
    measured["gradient"] = {name: name_colour(one) for name, one in seen.items()}
    colours = list(seen.values())
    pairs = [(colours[i], colours[i + 1]) for i in range(0, len(colours), 2)]
    return any(
        is_colour(a, asked[0]) and is_colour(b, asked[1])
        for pair in pairs
        for a, b in (pair, pair[::-1])
    )
