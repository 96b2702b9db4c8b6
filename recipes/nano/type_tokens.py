"""What the prior tokens name: parts of glyphs, steps of the plan, plain cells with a message, everything else.

A glyph fills whole cells: small type one, a headline two (upper and lower), display type two by three. A text token
names a character, the part of its glyph and the style; the ink is named once for the whole picture, by the plain
cells of its uppermost row. So 90 characters in 6 styles, 27 inks and 3 sizes take 2790 tokens, not 75 000.
A round or slanted shape is drawn from stencils: a token for each cell that its edge runs through, as glyphs have; the
cells left of it name the form and its colour. A gradient goes from one colour of the palette to another in three
mixtures, which have tokens of their own.
"""

import itertools
from dataclasses import dataclass

import numpy as np

CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?&.,:;-+/%$#@()=*_'" + '"€£°éäöü'
STYLES = ("sans", "serif", "mono", "sans regular", "serif regular", "mono regular")
PALETTE = {
    "red": (200, 32, 40),
    "orange": (240, 130, 30),
    "yellow": (250, 210, 50),
    "green": (36, 140, 60),
    "teal": (0, 128, 128),
    "cyan": (60, 200, 220),
    "blue": (30, 90, 210),
    "navy": (16, 32, 84),
    "purple": (110, 40, 150),
    "pink": (245, 130, 175),
    "brown": (110, 70, 40),
    "beige": (236, 222, 196),
    "white": (255, 255, 255),
    "gray": (128, 132, 138),
    "charcoal": (48, 52, 58),
    "black": (17, 17, 17),
    "maroon": (123, 30, 43),
    "coral": (255, 111, 97),
    "gold": (212, 175, 55),
    "lime": (164, 222, 2),
    "dark green": (11, 61, 30),
    "olive": (112, 112, 28),
    "mint": (168, 230, 207),
    "sky blue": (143, 199, 240),
    "lavender": (200, 162, 232),
    "magenta": (216, 27, 156),
    "silver": (196, 200, 204),
}
COLORS = tuple(PALETTE)
GLYPH_CELLS = {"small": (1, 1), "headline": (2, 1), "display": (3, 2)}  # rows, columns
STYLES_OF = {"small": STYLES[:1], "headline": STYLES, "display": STYLES[:3]}
SIZES = tuple(GLYPH_CELLS)
PLACES = ("top", "middle", "bottom")
ALIGNMENTS = ("left", "center", "right")
MAX_COLUMNS, MAX_ROWS, MAX_LENGTH, MAX_LINES = 30, 24, 24, 7
FORM_KINDS = ("circle", "ring", "star", "arrow", "triangle", "badge")  # shapes whose edges do not stand on the grid
FORM_SIDES = (8, 4)  # cells that such a shape is wide
FORMS = tuple(itertools.product(FORM_KINDS, FORM_SIDES))
NUM_STENCILS = 156  # room for all cells of such shapes that are neither bare nor full (renderer.stencils)
MIX_STEPS = 4  # from one colour to another, of which three are mixtures
# Mixtures of two palette colours as (near, far, quarters of the far one): mostly one of them, then halves.
MIXES = tuple((a, b, 1) for a in range(len(COLORS)) for b in range(len(COLORS)) if a != b) + tuple(
    (a, b, 2) for a in range(len(COLORS)) for b in range(a + 1, len(COLORS))
)


@dataclass(frozen=True)
class Part:
    """A cell of a glyph: type size, row and column inside the glyph, and its first token."""

    size: str
    row: int
    column: int
    first_token: int

    @property
    def num_styles(self) -> int:
        return len(STYLES_OF[self.size])


def _number_parts() -> tuple[tuple[Part, ...], int]:
    parts, first = [], 0
    for size, (rows, columns) in GLYPH_CELLS.items():
        for row in range(rows):
            for column in range(columns):
                part = Part(size, row, column, first)
                parts.append(part)
                first += len(CHARS) * part.num_styles
    return tuple(parts), first


PARTS, NUM_TEXT_TOKENS = _number_parts()
PART_OF = {(p.size, p.row, p.column): i for i, p in enumerate(PARTS)}

# What a cell without type can say beside its colour: the ink of the picture; type begins in so many columns, or rows;
# the number of a line, in the plan and in the row above it in the picture; that no line follows; which form begins to
# its right, and, in place of its own, the form's colour.
INK, COLUMNS, ROWS = 0, len(COLORS), len(COLORS) + MAX_COLUMNS
LINE = ROWS + MAX_ROWS + 1
LAST = LINE + MAX_LINES
FORM = LAST + 1
NUM_MESSAGES = FORM + len(FORMS)
FIRST_COLORED = NUM_TEXT_TOKENS  # messages of plain palette cells, colour by colour
FIRST_COLORLESS = FIRST_COLORED + len(COLORS) * NUM_MESSAGES  # the same where the colour is none of the palette
# The steps of the plan: the length of a line, then how and where it is set. Behind them the stencils.
LENGTH = FIRST_COLORLESS + NUM_MESSAGES
STYLE = LENGTH + MAX_LENGTH
SIZE = STYLE + len(STYLES)
PLACE = SIZE + len(SIZES)
ALIGN = PLACE + len(PLACES)
STENCIL = ALIGN + len(ALIGNMENTS)
FIRST_BACKGROUND = STENCIL + NUM_STENCILS
NUM_STEPS = FIRST_BACKGROUND - LENGTH
CODEBOOK_SIZE = 8500
FIRST_MIX = FIRST_BACKGROUND + len(COLORS)
NUM_LEARNT = CODEBOOK_SIZE - FIRST_MIX - len(MIXES)  # the tokens of all other cells
_MIX_OF = {mix: FIRST_MIX + i for i, mix in enumerate(MIXES)}


def text_token(char: str, size: str, row: int, column: int, style: str) -> int:
    """Return the token of one cell of a glyph; a style that a size does not have is set in its bold."""
    part = PARTS[PART_OF[size, row, column]]
    return part.first_token + CHARS.index(char) * part.num_styles + STYLES.index(style) % part.num_styles


def message(color: int, what: int) -> int:
    """Return the token of a cell without type that says `what`; color: index into the palette, -1 for any other."""
    assert 0 <= what < NUM_MESSAGES
    return FIRST_COLORLESS + what if color < 0 else FIRST_COLORED + color * NUM_MESSAGES + what


def mix(near: int, far: int, quarters: int) -> int:
    """Return the token of a plain cell between two palette colours, `quarters` of the way from near to far."""
    if quarters > MIX_STEPS // 2:
        return mix(far, near, MIX_STEPS - quarters)
    if near == far or not quarters:
        return FIRST_BACKGROUND + near
    return _MIX_OF[(near, far, 1) if quarters == 1 else (min(near, far), max(near, far), 2)]


@dataclass(frozen=True)
class Names:
    """What each token names, int (CODEBOOK_SIZE,); -1 where it does not name it.

    char, part, style: of text. message: of plain cells. color: of plain cells with a message, and the form's where one
    tells a form. step: of the plan, or a stencil.
    background: number among the tokens that are nothing but background; the palette comes first, then mixtures.
    """

    char: np.ndarray
    part: np.ndarray
    style: np.ndarray
    message: np.ndarray
    color: np.ndarray
    step: np.ndarray
    background: np.ndarray


def _name_tokens() -> Names:
    char, part, style, said, color, step, background = (np.full(CODEBOOK_SIZE, -1) for _ in range(7))
    for number, p in enumerate(PARTS):
        own = np.arange(len(CHARS) * p.num_styles)
        where = slice(p.first_token, p.first_token + len(own))
        part[where], char[where], style[where] = number, own // p.num_styles, own % p.num_styles
    own = np.arange(FIRST_COLORLESS - FIRST_COLORED)
    said[FIRST_COLORED:FIRST_COLORLESS], color[FIRST_COLORED:FIRST_COLORLESS] = own % NUM_MESSAGES, own // NUM_MESSAGES
    said[FIRST_COLORLESS:LENGTH] = np.arange(NUM_MESSAGES)
    step[LENGTH:FIRST_BACKGROUND] = np.arange(NUM_STEPS)
    background[FIRST_BACKGROUND:] = np.arange(CODEBOOK_SIZE - FIRST_BACKGROUND)
    return Names(char, part, style, said, color, step, background)


NAMES = _name_tokens()
# A line is spelt in the first row of its glyphs, the left column of display type; the other parts follow from them.
SPELLS = np.asarray([p.row == 0 and p.column == 0 for p in PARTS])[NAMES.part[:NUM_TEXT_TOKENS]]
