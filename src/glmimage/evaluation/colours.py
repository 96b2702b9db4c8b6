"""Name the colours of a picture: its background and its type.

A measured colour gets the name of the nearest of `PALETTE`'s patches, by the Euclidean distance in
CIE L*a*b* (D65). A name has several patches where people mean more than one colour by it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .reading import Line

Floats = NDArray[np.floating]

PALETTE: dict[str, tuple[str, ...]] = {
    "red": ("#ff0000", "#dc1e28", "#c82028", "#e53935", "#c0141e"),
    "maroon": ("#800000", "#7b1e2b", "#6b1020"),
    "orange": ("#ff8000", "#f0821e", "#ffa500", "#e8751a", "#f58a1f"),
    "coral": ("#ff7f50", "#ff6f61"),
    "yellow": ("#ffff00", "#fad232", "#fdd835", "#f7e017"),
    "gold": ("#d4af37", "#c9a227", "#daa520"),
    "lime": ("#a4de02", "#bfff00", "#8bd13f"),
    "green": ("#008000", "#248c3c", "#2e9e4f", "#4caf50", "#00b140", "#1f7a3a"),
    "dark green": ("#0b3d1e", "#014421", "#12402a"),
    "olive": ("#808000", "#6b6b23", "#7a7a3a"),
    "mint": ("#98e8c1", "#b5ead7", "#a8e6cf"),
    "teal": ("#008080", "#0f7f84", "#128a8a"),
    "turquoise": ("#40e0d0", "#3cc8dc", "#00ced1", "#00e5ff"),
    "sky blue": ("#87ceeb", "#8fc7f0", "#add8e6"),
    "blue": ("#0000ff", "#1e5ad2", "#1f6feb", "#2962ff", "#2a52be", "#0047ab"),
    "navy": ("#000080", "#102054", "#0a1f44", "#14274e"),
    "purple": ("#800080", "#6e2896", "#7b2cbf", "#5e35b1", "#8e24aa"),
    "lavender": ("#c8a2e8", "#d8c8f0", "#b39ddb"),
    "pink": ("#ffc0cb", "#f582af", "#ff69b4", "#f48fb1"),
    "magenta": ("#ff00ff", "#e6007e", "#d81b9c"),
    "brown": ("#6e4628", "#5d4037", "#8b4513", "#7a4a21"),
    "beige": ("#ecdec4", "#f5f5dc", "#e8d8b8", "#fff4d6"),
    "white": ("#ffffff", "#f8f8f8"),
    "silver": ("#c4c8cc",),
    "gray": ("#80848a", "#808080", "#9aa0a6", "#6b7078"),
    "charcoal": ("#30343a", "#36454f", "#3c3f44"),
    "black": ("#000000", "#111111", "#1a1a1a"),
}
SYNONYMS = {
    "burgundy": "maroon",
    "dark red": "maroon",
    "crimson": "red",
    "scarlet": "red",
    "salmon": "coral",
    "mustard": "gold",
    "amber": "orange",
    "lime green": "lime",
    "forest green": "dark green",
    "mint green": "mint",
    "cyan": "turquoise",
    "aqua": "turquoise",
    "light blue": "sky blue",
    "dark blue": "navy",
    "navy blue": "navy",
    "royal blue": "blue",
    "violet": "purple",
    "lilac": "lavender",
    "hot pink": "magenta",
    "cream": "beige",
    "ivory": "beige",
    "tan": "beige",
    "light gray": "silver",
    "light grey": "silver",
    "grey": "gray",
    "dark gray": "charcoal",
    "dark grey": "charcoal",
}
NEIGHBOURS = {
    # shades that a person who used the plain word would accept
    "red": {"maroon"},
    "green": {"dark green"},
    "blue": {"navy"},
    "yellow": {"gold"},
    "gold": {"yellow"},
    "pink": {"magenta"},
    "magenta": {"pink"},
    "gray": {"silver"},
    "silver": {"gray"},
    "coral": {"orange", "pink"},
    "charcoal": {"black"},
}


def to_lab(rgb: Floats) -> Floats:
    """Convert sRGB 0..255 (..., 3) to L*a*b*."""
    linear = np.asarray(rgb, np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@functools.cache
def _patches() -> tuple[tuple[str, ...], Floats]:
    names = [name for name, patches in PALETTE.items() for _ in patches]
    codes = [code for patches in PALETTE.values() for code in patches]
    rgb = [[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in codes]
    return tuple(names), to_lab(np.array(rgb))


def plain_name(name: str) -> str | None:
    """Return the palette's word for a colour word; None for one it does not know."""
    word = " ".join(name.lower().split())
    word = SYNONYMS.get(word, word)
    return word if word in PALETTE else None


def name_colour(lab: Floats) -> str:
    """Return the name of the nearest patch."""
    names, patches = _patches()
    return names[int(((patches - lab) ** 2).sum(1).argmin())]


def is_colour(lab: Floats, asked: str) -> bool:
    """Say whether a measured colour is one that the word means."""
    name = plain_name(asked)
    measured = name_colour(lab)
    return name is not None and (measured == name or measured in NEIGHBOURS.get(name, set()))


def colour_mask(lab: Floats, asked: str) -> NDArray[np.bool_]:
    """Return where a picture (H, W, 3) has a colour that the word means, (H, W)."""
    names, patches = _patches()
    flat = lab.reshape(-1, 3)
    # |a - b|^2 without |a|^2, which is the same for all patches
    nearest = ((patches**2).sum(1) - 2 * flat @ patches.T).argmin(1)
    name = plain_name(asked)
    meant = {name, *NEIGHBOURS.get(name or "", ())}
    mask: NDArray[np.bool_] = np.array([one in meant for one in names])[nearest]
    return mask.reshape(lab.shape[:2])


def background_colours(lab: Floats, lines: Sequence[Line]) -> tuple[Floats, Floats]:
    """Return the median of the picture's border and that of everything outside the type.

    lab: (H, W, 3). Border: the outer 4 % of the shorter side.
    """
    outside = np.ones(lab.shape[:2], bool)
    for line in lines:
        rows, columns = box_slices(line.box, lab.shape[:2], grow=0.1)
        outside[rows, columns] = False
    ring = np.ones(lab.shape[:2], bool)
    width = max(2, round(min(lab.shape[:2]) * 0.04))
    ring[width:-width, width:-width] = False
    return _median(lab, ring & outside), _median(lab, outside)


def _median(lab: Floats, area: NDArray[np.bool_]) -> Floats:
    """Return the median colour of an area; of the whole picture when the area is empty."""
    chosen: Floats = np.median(lab[area] if area.any() else lab.reshape(-1, 3), axis=0)
    return chosen


def text_colour(lab: Floats, lines: Sequence[Line]) -> Floats | None:
    """Return the colour of the type in some lines; None without contrast or lines."""
    inks, weights = [], []
    for line in lines:
        crop = lab[box_slices(line.box, lab.shape[:2])]
        ink = find_ink(crop)
        if ink is not None:
            inks.append(np.median(crop[ink], axis=0))
            weights.append(float(ink.sum()))
    return inks[int(np.argmax(weights))] if inks else None


def find_ink(crop: Floats) -> NDArray[np.bool_] | None:
    """Return which pixels of a line's box (H, W, 3), L*a*b*, are the full ink; None without any.

    The rim of the box is its background; the ink is what differs most from it.
    """
    distance = ink_distance(crop)
    if distance is None:
        return None
    full = float(np.percentile(distance, 97))
    return distance > 0.75 * full if full > 12 else None


def ink_distance(crop: Floats) -> Floats | None:
    """Return the distance of a box's pixels from its background; None when it is too small."""
    if min(crop.shape[:2]) < 6:
        return None
    rim = np.concatenate([crop[:2].reshape(-1, 3), crop[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, crop[:, :2].reshape(-1, 3), crop[:, -2:].reshape(-1, 3)])
    return np.sqrt(((crop - np.median(rim, axis=0)) ** 2).sum(-1))


def box_slices(
    box: Sequence[float], shape: Sequence[int], grow: float = 0.0
) -> tuple[slice, slice]:
    """Return the rows and columns of a box within a picture (H, W); grow: part of its height."""
    left, top, right, bottom = box
    margin = grow * (bottom - top)
    height, width = shape[:2]
    rows = slice(max(0, int(top - margin)), min(height, int(np.ceil(bottom + margin))))
    columns = slice(max(0, int(left - margin)), min(width, int(np.ceil(right + margin))))
    return rows, columns
