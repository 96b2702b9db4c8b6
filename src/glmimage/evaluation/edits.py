"""Judge an edit: was the change made that was asked for, and is the rest as it was?

Distances are Euclidean in L*a*b*; the limits allow what an 8-bit picture loses in a VAE, and no
more than people would call the same colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .colours import (
    Floats,
    background_colours,
    box_slices,
    colour_mask,
    is_colour,
    name_colour,
    text_colour,
    to_lab,
)
from .reading import Line
from .rows import Change, Region, Row
from .words import WordScores, assign_lines, split_words

LEGIBLE = 0.8
"""Mean NED from which a text counts as written; legibility itself is measured apart."""
SAME_AREA, SAME_INK = 16.0, 25.0
MOVED = 0.12
"""Part of the picture by which a text may drift and still be where it was."""
GROWN = 1.2
SAME_LIGHT = 0.85
"""Correlation of the lightness."""
SMALL_SIDE = 256
"""px, at which shapes are looked for."""
NEW_SHAPE = 0.012
"""Part of the picture that a new shape covers at least."""


@dataclass(frozen=True)
class Picture:
    """A picture, lab (H, W, 3), and the lines in it."""

    lab: Floats
    lines: tuple[Line, ...] = ()

    def with_boxes(self, row: Row, change: Change) -> Picture:
        """Return the source with its lines where the set says they are."""
        height, width = self.lab.shape[:2]
        scale = (width, height, width, height)
        lines = []
        for index, box in enumerate(change.boxes):
            left, top, right, bottom = (part * side for part, side in zip(box, scale, strict=True))
            text = row.texts[index] if index < len(row.texts) else ""
            lines.append(Line(text, (left, top, right, bottom)))
        return Picture(self.lab, tuple(lines))


def check_change(
    row: Row,
    result: Picture,
    before: Sequence[Picture],
    sources: Sequence[Image.Image],
    read: Callable[[Image.Image], tuple[Line, ...]],
    scores: WordScores,
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return what was made and what was kept, each by name."""
    change = row.change
    if change is None or not before:
        raise ValueError(f"row {row.id} is no edit")
    source = before[0].with_boxes(row, change)
    made: dict[str, bool] = {}
    legible = not scores.ned or sum(scores.ned) / len(scores.ned) >= LEGIBLE
    if "texts" not in change.keep:
        made["texts"] = legible
    if change.gone:
        seen = set(split_words(line.text for line in result.lines))
        made["gone"] = not seen & (set(split_words(change.gone)) - set(split_words(row.texts)))
    if change.grown:
        made["grown"] = _has_grown(row, result, Picture(source.lab, read(sources[0])))
    if change.added:
        kind, color = change.added
        if kind == "frame":
            made[kind] = _has_frame(result, source, color)
        else:
            made[kind] = _has_new_shape(row, result, source, color)
    if change.effect:
        made[change.effect] = _EFFECTS[change.effect](result, source)
    if change.regions:
        made["regions"] = all(
            region.color is not None and is_colour(_region(result.lab, region), region.color)
            for region in change.regions
        )
    if change.palette_of is not None:
        other = before[change.palette_of]
        other = Picture(other.lab, read(sources[change.palette_of]))
        made["palette"] = _same_background(result, other) and _same_ink(result, other)
    return made, _check_kept(row, change, result, source, legible)


def _check_kept(
    row: Row, change: Change, result: Picture, source: Picture, legible: bool
) -> dict[str, bool]:
    tests: dict[str, Callable[[], bool]] = {
        "texts": lambda: legible,
        "background": lambda: _same_background(result, source),
        "text_color": lambda: _same_ink(_first_string(row, result), _first_string(row, source)),
        "positions": lambda: _same_places(row, result, source),
        "regions": lambda: all(
            _distance(_region(result.lab, one), _region(source.lab, one)) <= SAME_AREA
            for one in change.kept_regions
        ),
        "light": lambda: _same_light(result, source),
    }
    return {name: tests[name]() for name in change.keep}


def _distance(a: Floats, b: Floats) -> float:
    return float(np.sqrt(((a - b) ** 2).sum()))


def _region(lab: Floats, region: Region) -> Floats:
    height, width = lab.shape[:2]
    left, top, right, bottom = region.box
    part = lab[box_slices((left * width, top * height, right * width, bottom * height), lab.shape)]
    middle: Floats = np.median(part.reshape(-1, 3), axis=0)
    return middle


def _same_background(a: Picture, b: Picture) -> bool:
    pairs = zip(background_colours(*_both(a)), background_colours(*_both(b)), strict=True)
    return any(_distance(one, other) <= SAME_AREA for one, other in pairs)


def _both(picture: Picture) -> tuple[Floats, tuple[Line, ...]]:
    return picture.lab, picture.lines


def _first_string(row: Row, picture: Picture) -> Picture:
    own = assign_lines(row.texts, picture.lines)
    return Picture(picture.lab, tuple(own[0]) if own and own[0] else picture.lines[:1])


def _same_ink(a: Picture, b: Picture) -> bool:
    one, other = text_colour(*_both(a)), text_colour(*_both(b))
    if one is None or other is None:
        return False
    return _distance(one, other) <= SAME_INK or name_colour(one) == name_colour(other)


def _same_places(row: Row, result: Picture, source: Picture) -> bool:
    height, width = result.lab.shape[:2]
    source_height, source_width = source.lab.shape[:2]
    own = assign_lines(row.texts, result.lines)
    for line, found in zip(source.lines, own, strict=False):
        if not found:
            return False
        x, y = _middle(found, width, height)
        source_x, source_y = _middle([line], source_width, source_height)
        if abs(x - source_x) > MOVED or abs(y - source_y) > MOVED:
            return False
    return True


def _same_light(a: Picture, b: Picture) -> bool:
    """Say whether the same parts are light and dark, at 32 x 32."""
    coarse = [
        np.asarray(Image.fromarray(one.lab[..., 0].astype(np.float32)).resize((32, 32)))
        for one in (a, b)
    ]
    return float(np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1]) >= SAME_LIGHT


def _middle(lines: Sequence[Line], width: int, height: int) -> tuple[float, float]:
    boxes = np.array([line.box for line in lines])
    x = (boxes[:, 0].min() + boxes[:, 2].max()) / 2 / width
    return float(x), float((boxes[:, 1].min() + boxes[:, 3].max()) / 2 / height)


def _has_grown(row: Row, result: Picture, source: Picture) -> bool:
    """Compare the width of a letter, both as read: boxes of different readers differ in height."""

    def letter_width(picture: Picture) -> float:
        found = assign_lines(row.texts, picture.lines)[0]
        widths = [(line.box[2] - line.box[0]) / max(len(line.text), 1) for line in found]
        return max(widths, default=0.0) / picture.lab.shape[1]

    before = letter_width(source)
    return before > 0 and letter_width(result) >= GROWN * before


def _small(lab: NDArray[Any]) -> NDArray[Any]:
    """Scale to about `SMALL_SIDE` by leaving pixels out: mixed colours have wrong names."""
    step = max(1, max(lab.shape[:2]) // SMALL_SIDE)
    return lab[step // 2 :: step, step // 2 :: step]


def _has_frame(result: Picture, source: Picture, color: str) -> bool:
    """Say whether each side shows the colour along 70 % of its length, and did not before."""

    def shares(picture: Picture) -> list[float]:
        mask = colour_mask(_small(picture.lab), color)
        depth = max(2, round(min(mask.shape) * 0.15))
        sides = [mask[:depth], mask[-depth:], mask[:, :depth].T, mask[:, -depth:].T]
        return [float(side.any(0).mean()) for side in sides]

    return min(shares(result)) >= 0.7 and min(shares(source)) < 0.7


def _has_new_shape(row: Row, result: Picture, source: Picture, color: str) -> bool:
    """Say whether the colour covers more outside the type than it did.

    What is read as a letter that nobody asked for may be the shape: a disc is an O.
    """

    def share(picture: Picture) -> float:
        mask = np.ones(picture.lab.shape[:2], bool)
        for own in assign_lines(row.texts, picture.lines):
            for line in own:
                if len(line.text) > 1:
                    mask[box_slices(line.box, mask.shape)] = False
        found = colour_mask(_small(picture.lab), color) & _small(mask)
        return float(found.mean())

    return share(result) - share(source) >= NEW_SHAPE


def _is_inverted(result: Picture, source: Picture) -> bool:
    before = background_colours(*_both(source))
    after = background_colours(*_both(result))
    return any(
        _distance(to_lab(255 - _to_rgb(a)), b) <= 22 for a, b in zip(before, after, strict=True)
    )


def _to_rgb(lab: Floats) -> Floats:
    """Convert one L*a*b* colour to sRGB 0..255."""
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(f**3 > 0.008856, f**3, (f - 16 / 116) / 7.787) * [0.95047, 1.0, 1.08883]
    from_xyz = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = np.clip(np.array(from_xyz) @ xyz, 0, 1)
    rgb: Floats = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb * 255


def _is_sepia(result: Picture, source: Picture) -> bool:
    """Brownish all over: hues between red-orange and yellow, or nearly gray."""
    lab = _small(result.lab)
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.arctan2(lab[..., 2], lab[..., 1])
    brownish = (chroma < 6) | ((hue > np.radians(35)) & (hue < np.radians(112)) & (chroma < 55))
    return float(brownish.mean()) >= 0.92 and float(np.median(chroma)) >= 5


def _is_grayscale(result: Picture, source: Picture) -> bool:
    lab = _small(result.lab)
    return float((np.hypot(lab[..., 1], lab[..., 2]) < 9).mean()) >= 0.95


def _is_blueprint(result: Picture, source: Picture) -> bool:
    """A blue ground and lighter lines."""
    ground = background_colours(*_both(result))[1]
    ink = text_colour(*_both(result))
    return is_colour(ground, "blue") and ink is not None and float(ink[0] - ground[0]) > 25


def _is_pixelated(result: Picture, source: Picture) -> bool:
    """Blocks of 8 to 32 px explain the picture, and did not explain the source."""

    def unexplained(lab: Floats, side: int) -> float:
        light = lab[: lab.shape[0] // side * side, : lab.shape[1] // side * side, 0]
        blocks = light.reshape(light.shape[0] // side, side, light.shape[1] // side, side)
        rest = blocks - blocks.mean((1, 3), keepdims=True)
        return float((rest**2).mean() / max(float(light.var()), 1e-6))

    sides = [side for side in (8, 12, 16, 20, 24, 32) if side * 8 <= min(result.lab.shape[:2])]
    return any(
        unexplained(result.lab, side) <= min(0.06, unexplained(source.lab, side) / 2)
        for side in sides
    )


def _is_watercolour(result: Picture, source: Picture) -> bool:
    """Softer edges than the source's, or a grain in what was flat."""

    def edges(lab: Floats) -> float:
        down, right = np.gradient(lab[..., 0])
        sharpest = np.percentile(np.hypot(down, right), 99.8)
        return float(sharpest / max(float(np.ptp(lab[..., 0])), 1.0))

    def grain(lab: Floats) -> float:
        light = lab[: lab.shape[0] // 16 * 16, : lab.shape[1] // 16 * 16, 0]
        blocks = light.reshape(light.shape[0] // 16, 16, light.shape[1] // 16, 16)
        return float(np.median(blocks.std((1, 3))))

    softer = edges(result.lab) < 0.75 * edges(source.lab)
    return softer or grain(result.lab) > grain(source.lab) + 0.8


_EFFECTS: dict[str, Callable[[Picture, Picture], bool]] = {
    "inverted": _is_inverted,
    "sepia": _is_sepia,
    "grayscale": _is_grayscale,
    "blueprint": _is_blueprint,
    "pixel": _is_pixelated,
    "watercolour": _is_watercolour,
}
