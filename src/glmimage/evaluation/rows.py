"""Sets of prompts, with what each asks for: JSON files, a list of rows.

    {"id": "free-01", "prompt": "...", "texts": ["OPEN"], "seed": 7001, "width": 512, "height": 512,
     "asked": {"background": "green", "text_color": "white", "positions": ["top"], ...}}

`texts` are the strings to be written; `seed`, `width` and `height` may be left out. What is not
asked for is null or absent, and is not judged. Edits have `sources` (files beside the set), `kind`,
and what is to change and to stay: see `Change`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest
from ..types import SIZE_PRESETS, check_prompt, check_size
from .colours import plain_name
from .lettering import FAMILIES, WEIGHTS
from .placing import ALIGNMENTS, POSITIONS

EFFECTS = ("inverted", "sepia", "blueprint", "pixel", "watercolour", "grayscale")
KEPT = ("texts", "background", "text_color", "positions", "regions", "light")
SHAPES = ("frame", "shape")


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for besides its strings.

    gradient: the colours at two opposite edges. text_color, style and weight are those of the first
    string; positions has one value a string; alignment is that of all.
    """

    background: str | None = None
    gradient: tuple[str, str] | None = None
    text_color: str | None = None
    positions: tuple[str | None, ...] = ()
    alignment: str | None = None
    style: str | None = None
    weight: str | None = None


@dataclass(frozen=True)
class Region:
    """A part of a picture, (left, top, right, bottom) in 0..1, and the colour it must have."""

    box: tuple[float, float, float, float]
    color: str | None = None


@dataclass(frozen=True)
class Change:
    """What an edit must change, besides what `Asked` says, and what it must keep.

    gone: strings that must be gone. grown: the first string must be larger. added: a frame or shape
    and its colour. regions: parts that must have a colour. palette_of: the source whose colours the
    result must have. keep: see KEPT; "regions" are the boxes of `kept_regions`, "light" is what is
    light and what is dark. boxes: where the strings are in the first source, 0..1.
    """

    gone: tuple[str, ...] = ()
    grown: bool = False
    added: tuple[str, str] | None = None
    effect: str | None = None
    regions: tuple[Region, ...] = ()
    palette_of: int | None = None
    keep: tuple[str, ...] = ()
    kept_regions: tuple[Region, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """One prompt of a set. width, height, seed: None where the set leaves them to the run."""

    id: str
    prompt: str
    texts: tuple[str, ...]
    seed: int
    width: int
    height: int
    asked: Asked = field(default_factory=Asked)
    conditions: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    sources: tuple[Path, ...] = ()
    change: Change | None = None


def load_rows(path: Path, size: tuple[int, int] | None = None) -> tuple[Row, ...]:
    """Read a set; `size` replaces the rows' own. Raise InvalidRequest naming the row."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"The set {str(path)!r} cannot be read: {error}.",
            hint="A set is a JSON file; those of nano are in recipes/nano/eval/.",
        ) from error
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest(f"The set {str(path)!r} is not a list of prompts.")
    rows = []
    for number, one in enumerate(raw, 1):
        try:
            rows.append(_read_row(one, number, path, size))
        except (KeyError, TypeError, ValueError, InvalidRequest) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InvalidRequest(f"Row {number} of {str(path)!r} is wrong: {reason}") from error
    if len({row.id for row in rows}) < len(rows):
        raise InvalidRequest(f"The set {str(path)!r} uses an id twice.")
    return tuple(rows)


def _read_row(raw: Mapping[str, Any], number: int, path: Path, size: tuple[int, int] | None) -> Row:
    texts = tuple(str(text) for text in raw["texts"])
    width, height = size or check_size(raw.get("width", 512), raw.get("height", 512))
    row = Row(
        id=str(raw.get("id", f"{path.stem}-{number:03d}")),
        prompt=check_prompt(raw["prompt"]),
        texts=texts,
        seed=int(raw.get("seed", number)),
        width=width,
        height=height,
        asked=_read_asked(raw.get("asked") or {}, len(texts)),
        kind=raw.get("kind"),
        sources=tuple(path.parent / name for name in raw.get("sources", ())),
        change=_read_change(raw["change"]) if raw.get("change") else None,
    )
    if not set(row.id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."):
        raise ValueError(f"the id {row.id!r} is no file name")
    object.__setattr__(row, "conditions", _conditions(row, raw.get("conditions") or {}))
    return row


def _read_asked(raw: Mapping[str, Any], num_texts: int) -> Asked:
    _check_keys(raw, Asked)
    asked = Asked(**{name: _frozen(value) for name, value in raw.items() if value is not None})
    for color in (asked.background, asked.text_color, *(asked.gradient or ())):
        _check_colour(color)
    allowed = (asked.alignment, ALIGNMENTS), (asked.style, FAMILIES), (asked.weight, WEIGHTS)
    for value, choice in (*allowed, *((place, POSITIONS) for place in asked.positions)):
        if value not in (None, *choice):
            raise ValueError(f"{value!r} is none of {', '.join(choice)}")
    if len(asked.positions) > num_texts:
        raise ValueError("there are more positions than texts")
    return asked


def _read_change(raw: Mapping[str, Any]) -> Change:
    _check_keys(raw, Change)
    values = {name: _frozen(value) for name, value in raw.items() if value is not None}
    for name in ("regions", "kept_regions"):
        if name in values:
            values[name] = tuple(Region(_frozen(r["box"]), r.get("color")) for r in raw[name])
            for region in values[name]:
                _check_colour(region.color)
    change = Change(**values)
    if change.effect not in (None, *EFFECTS):
        raise ValueError(f"the effect {change.effect!r} is none of {', '.join(EFFECTS)}")
    if change.added and change.added[0] not in SHAPES:
        raise ValueError(f"{change.added[0]!r} is none of {', '.join(SHAPES)}")
    if not set(change.keep) <= set(KEPT):
        raise ValueError(f"{sorted(set(change.keep) - set(KEPT))} are none of {', '.join(KEPT)}")
    return change


def _check_keys(raw: Mapping[str, Any], kind: type) -> None:
    unknown = set(raw) - {one.name for one in fields(kind)}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} cannot be judged")


def _check_colour(name: str | None) -> None:
    if name is not None and plain_name(name) is None:
        raise ValueError(f"the colour {name!r} is unknown")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def _conditions(row: Row, given: Mapping[str, str]) -> dict[str, str]:
    """Return what the figures are told apart by."""
    names = {size: name for name, size in SIZE_PRESETS.items()}
    conditions = {
        "size": names.get((row.width, row.height), "other"),
        "strings": str(len(row.texts)),
        "length": _length(sum(map(len, row.texts))),
        "style": row.asked.style or "any",
    }
    if row.kind:
        conditions = {"kind": row.kind}
    return conditions | {name: str(value) for name, value in given.items()}


def _length(num_characters: int) -> str:
    if num_characters <= 10:
        return "1-10"
    return "11-20" if num_characters <= 20 else "21-40"
