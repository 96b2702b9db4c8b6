"""Tell the family (sans, serif, mono) and the weight of type from its letters.

The letters of a line are cut out, aligned with the text that was read, and compared with those of
two typefaces a family, in regular and bold (Liberation and DejaVu, as 16 x 16 coverages stretched
to their box, `letters.npz`, drawn by scripts/make_letters.py). Letters that do not advance evenly
are not mono, whatever their shapes say. How often it is right: docs/nano.md.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .colours import Floats, box_slices, ink_distance
from .reading import Line

FAMILIES, WEIGHTS = ("sans", "serif", "mono"), ("regular", "bold")
LETTERS = string.ascii_letters + string.digits
SIDE = 16
ASPECT_WEIGHT = 0.05
SKIPPED = 0.22
"""Cost of a letter or a piece of ink without a partner; a good match costs about 0.05."""
EVEN = 0.12
"""Deviation from an even advance, as part of it, that mono type may show."""
MIN_LETTERS = 2


@functools.cache
def letter_shapes() -> tuple[Floats, Floats]:
    """Return shapes (families, faces, weights, letters, 256) and the logarithms of aspects."""
    with np.load(Path(__file__).with_name("letters.npz")) as stored:
        return stored["shapes"].astype(np.float32) / 255, stored["aspects"].astype(np.float32)


def shape_of(coverage: Floats) -> tuple[Floats, float]:
    """Stretch a letter's coverage (H, W) in 0..1 to 16 x 16; return it flat, with log(W / H)."""
    import cv2

    height, width = coverage.shape
    # averaging areas is exact when shrinking, and makes steps when enlarging
    method = cv2.INTER_LINEAR if min(height, width) < SIDE else cv2.INTER_AREA
    small = cv2.resize(coverage.astype(np.float32), (SIDE, SIDE), interpolation=method)
    shape = np.asarray(cv2.GaussianBlur(small, (3, 3), 0), np.float32)
    return shape.reshape(-1), float(np.log(width / height))


def tell_lettering(lab: Floats, lines: Sequence[Line]) -> tuple[str, str] | None:
    """Return the family and the weight of some lines, lab (H, W, 3); None with too few letters."""
    shapes, _ = letter_shapes()
    costs = np.zeros(shapes.shape[:3])
    num_letters, evenness = 0, []
    for line in lines:
        pieces = cut_letters(lab[box_slices(line.box, lab.shape[:2], grow=0.08)])
        letters = [char for char in line.text if not char.isspace()]
        pairs = _align(pieces, letters)
        for piece, letter in pairs:
            costs += _distances(*shape_of(pieces[piece][1]), letters[letter])
        num_letters += len(pairs)
        evenness += _advances(line.text, {letter: pieces[piece][0] for piece, letter in pairs})
    if num_letters < MIN_LETTERS:
        return None
    by_family = costs.min(axis=(1, 2))
    if len(evenness) >= 3 and float(np.median(evenness)) > EVEN:
        by_family[FAMILIES.index("mono")] = np.inf
    family = int(by_family.argmin())
    weight = int(costs[family].min(axis=0).argmin())
    return FAMILIES[family], WEIGHTS[weight]


def cut_letters(crop: Floats) -> list[tuple[float, Floats]]:
    """Return the middle (px from the left) and the coverage of each piece of ink, left to right."""
    import cv2

    distance = ink_distance(crop)
    if distance is None or (full := float(np.percentile(distance, 97))) < 12:
        return []
    coverage = np.clip(distance / full, 0, 1)
    _, _, stats, _ = cv2.connectedComponentsWithStats((coverage > 0.5).astype(np.uint8))
    boxes = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:].tolist() if area >= 6]
    joined: list[list[int]] = []
    for box in sorted(boxes, key=lambda one: one[0] + one[2]):
        if joined and _same_letter(joined[-1], box):
            last = joined[-1]
            joined[-1] = [*map(min, last[:2], box[:2]), *map(max, last[2:], box[2:])]
        else:
            joined.append(box)
    smallest = 0.12 * crop.shape[0]
    return [
        ((left + right) / 2, coverage[top:bottom, left:right])
        for left, top, right, bottom in joined
        if bottom - top > smallest
    ]


def _same_letter(a: Sequence[int], b: Sequence[int]) -> bool:
    """Say whether two pieces stand one above the other, as the dot and the stem of an i."""
    overlap = min(a[2], b[2]) - max(a[0], b[0])
    return overlap > 0.5 * min(a[2] - a[0], b[2] - b[0])


def _distances(shape: Floats, aspect: float, letter: str) -> Floats:
    """Return how far a piece of ink is from a letter, (families, faces, weights)."""
    shapes, aspects = letter_shapes()
    index = LETTERS.index(letter)
    far: Floats = np.abs(shapes[:, :, :, index] - shape).mean(-1)
    return far + ASPECT_WEIGHT * np.minimum(np.abs(aspects[:, :, :, index] - aspect), 1.0)


def _align(pieces: Sequence[tuple[float, Floats]], letters: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs (piece, letter) of the cheapest alignment that keeps the order."""
    shapes = [shape_of(coverage) for _, coverage in pieces]
    cost = np.full((len(pieces) + 1, len(letters) + 1), np.inf)
    cost[0], cost[:, 0] = np.arange(cost.shape[1]) * SKIPPED, np.arange(cost.shape[0]) * SKIPPED
    match = np.full(cost.shape, np.inf)
    for i, (shape, aspect) in enumerate(shapes, 1):
        for j, letter in enumerate(letters, 1):
            if letter in LETTERS:
                match[i, j] = float(_distances(shape, aspect, letter).min())
            elif abs(i / len(pieces) - j / len(letters)) < 0.3:
                match[i, j] = (
                    SKIPPED  # a mark that is not told apart takes a piece, and says nothing
                )
            skip = min(cost[i - 1, j], cost[i, j - 1]) + SKIPPED
            cost[i, j] = min(skip, cost[i - 1, j - 1] + match[i, j])
    pairs, i, j = [], len(pieces), len(letters)
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + match[i, j]:
            i, j = i - 1, j - 1
            if letters[j] in LETTERS:
                pairs.append((i, j))
        elif cost[i, j] == cost[i - 1, j] + SKIPPED:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _advances(text: str, middles: dict[int, float]) -> list[float]:
    """Return how far the advances between letters of a word are from the median, as part of it.

    middles: px of the letters found, by their number in the text without spaces.
    """
    words = text.split()
    starts = np.cumsum([0, *map(len, words)]).tolist()
    inner = [
        n
        for start, word in zip(starts, words, strict=False)
        for n in range(start, start + len(word) - 1)
    ]
    steps = [middles[n + 1] - middles[n] for n in inner if n in middles and n + 1 in middles]
    if len(steps) < 3:
        return []
    typical = float(np.median(steps))
    return [abs(step - typical) / max(typical, 1.0) for step in steps]


def pack_shapes(coverages: NDArray[np.object_]) -> dict[str, NDArray[np.generic]]:
    """Return what `letters.npz` holds, from coverages (families, faces, weights, letters)."""
    pairs = [shape_of(coverage) for coverage in coverages.reshape(-1)]
    shapes = np.array([(shape * 255).round() for shape, _ in pairs], np.uint8)
    aspects = np.array([aspect for _, aspect in pairs], np.float16)
    return {
        "shapes": shapes.reshape(*coverages.shape, -1),
        "aspects": aspects.reshape(coverages.shape),
    }
