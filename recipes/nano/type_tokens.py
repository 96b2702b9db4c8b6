"""What a text token names: a character, the part of its glyph, and the style or the ink.

A glyph fills whole cells: small type one, a headline two (upper and lower), display type two by three. Every part has
tokens of its own for each character; one row of parts also names the style, one the ink, and the decoder learns to
look them up there. So 90 characters in 6 styles, 12 inks and 3 sizes take 6120 tokens instead of 58 000.
"""

from dataclasses import dataclass

import numpy as np

CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?&.,:;-+/%$#@()=*_'" + '"€£°éäöü'
STYLES = ("sans", "serif", "mono", "sans regular", "serif regular", "mono regular")
INKS = {
    "white": (255, 255, 255),
    "black": (17, 17, 17),
    "red": (200, 32, 40),
    "orange": (240, 130, 30),
    "yellow": (250, 210, 50),
    "green": (36, 140, 60),
    "cyan": (60, 200, 220),
    "blue": (30, 90, 210),
    "navy": (16, 32, 84),
    "purple": (110, 40, 150),
    "pink": (245, 130, 175),
    "gray": (128, 132, 138),
}


@dataclass(frozen=True)
class Part:
    """A cell of a glyph: type size, row and column inside the glyph, what else it names, and its first token."""

    size: str
    row: int
    column: int
    names: str
    first_token: int

    @property
    def num_variants(self) -> int:
        return {"style": len(STYLES), "ink": len(INKS), "": 1}[self.names]


GLYPH_CELLS = {"small": (1, 1), "headline": (2, 1), "display": (3, 2)}  # rows, columns
_NAMED_BY_ROW = {"small": ("ink",), "headline": ("style", "ink"), "display": ("", "style", "ink")}


def _number_parts() -> tuple[tuple[Part, ...], int]:
    parts, first = [], 0
    for size, (rows, columns) in GLYPH_CELLS.items():
        for row in range(rows):
            for column in range(columns):
                part = Part(size, row, column, _NAMED_BY_ROW[size][row], first)
                parts.append(part)
                first += len(CHARS) * part.num_variants
    return tuple(parts), first


PARTS, NUM_TEXT_TOKENS = _number_parts()
PART_OF = {(p.size, p.row, p.column): p for p in PARTS}


def text_token(char: str, size: str, row: int, column: int, style: str, ink: str) -> int:
    """Return the token of one cell of a glyph."""
    part = PART_OF[size, row, column]
    variant = {"style": STYLES.index(style), "ink": list(INKS).index(ink), "": 0}[part.names]
    return part.first_token + CHARS.index(char) * part.num_variants + variant


@dataclass(frozen=True)
class TextAttributes:
    """What each text token names, int (NUM_TEXT_TOKENS,); -1 where it does not name it."""

    char: np.ndarray
    part: np.ndarray
    style: np.ndarray
    ink: np.ndarray


def text_attributes() -> TextAttributes:
    """Take all text tokens apart."""
    columns: list[list[int]] = [[], [], [], []]
    for number, part in enumerate(PARTS):
        for char in range(len(CHARS)):
            for variant in range(part.num_variants):
                style = variant if part.names == "style" else -1
                ink = variant if part.names == "ink" else -1
                for column, value in zip(columns, (char, number, style, ink), strict=True):
                    column.append(value)
    return TextAttributes(*(np.asarray(c) for c in columns))


TEXT = text_attributes()
# A line is spelt in the first row of its glyphs, the left column of display type; the other parts follow from them.
SPELLS = np.asarray([p.row == 0 and p.column == 0 for p in PARTS])[TEXT.part]
