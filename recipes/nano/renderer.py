"""Draw the designs that nano learns from: text set on the token grid, over plain or shaped backgrounds.

Every glyph fills whole 32 px cells (a headline glyph is 1 cell wide and 2 high, a small one 1 by 1), so that the
set of text cells is finite and a token can name each: that is what makes spelling learnable by a small prior.
A design is drawn from numbers alone; the same design gives its picture and its prior tokens.
"""

import functools
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 32  # px a prior token covers on each side
CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?&.,:;-+/%$#@()=*_'"
HEADLINE_STYLES = ("sans", "serif", "mono")
INKS = {"white": (255, 255, 255), "black": (17, 17, 17)}
# Debian packages fonts-liberation and fonts-dejavu-core (OFL 1.1; Bitstream Vera licence): file, size in px.
FONTS = {
    "sans": ("LiberationSans-Bold.ttf", 52),
    "serif": ("DejaVuSerif-Bold.ttf", 46),
    "mono": ("LiberationMono-Bold.ttf", 54),
    "small": ("LiberationSans-Bold.ttf", 29),
}
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
}
NUM_GLYPH_CLASSES = len(CHARS) * (2 * len(HEADLINE_STYLES) + 1)
NUM_TEXT_TOKENS = NUM_GLYPH_CLASSES * len(INKS)
CODEBOOK_SIZE = 2048
BACKGROUND_FEATURE_SIDE = 4  # a background cell is described by its 4 x 4 mean colours


@dataclass(frozen=True)
class Line:
    """One line of type: `row` and `column` are cells of its upper left corner; style "small" is one cell high."""

    text: str
    row: int
    column: int
    style: str

    @property
    def num_rows(self) -> int:
        return 1 if self.style == "small" else 2


@dataclass(frozen=True)
class Shape:
    """A filled form in cell units: kind circle, ring, frame, stripe or box, with centre, half sizes and colour."""

    kind: str
    y: float
    x: float
    half_height: float
    half_width: float
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Design:
    """What a picture shows: grid size in cells, background (top and bottom colour), ink, lines and shapes."""

    num_rows: int
    num_columns: int
    top_color: tuple[int, int, int]
    bottom_color: tuple[int, int, int]
    ink: str
    lines: tuple[Line, ...] = ()
    shapes: tuple[Shape, ...] = ()
    names: dict[str, str] = field(default_factory=dict, compare=False)


def find_font(file_name: str) -> Path:
    """Find an installed font file; raise SystemExit naming the Debian packages when it is missing."""
    for root in (Path("/usr/share/fonts"), Path.home() / ".local/share/fonts"):
        for path in root.rglob(file_name):
            return path
    raise SystemExit(f"font {file_name} not found: apt-get install fonts-liberation fonts-dejavu-core")


@functools.cache
def glyph_mask(char: str, style: str) -> np.ndarray:
    """Return the coverage of one glyph, uint8 (64, 32), or (32, 32) for the small style; wide glyphs are squeezed."""
    file_name, size = FONTS[style]
    font = ImageFont.truetype(str(find_font(file_name)), size)
    height = CELL if style == "small" else 2 * CELL
    canvas = Image.new("L", (5 * CELL, height), 0)
    ImageDraw.Draw(canvas).text((2.5 * CELL, round(height * 0.76)), char, font=font, fill=255, anchor="ms")
    box = canvas.getbbox()
    cell = Image.new("L", (CELL, height), 0)
    if box is None:
        return np.asarray(cell)
    crop = canvas.crop((box[0], 0, box[2], height))
    if crop.width > CELL - 2:
        crop = crop.resize((CELL - 2, height), Image.Resampling.LANCZOS)
    cell.paste(crop, ((CELL - crop.width) // 2, 0))
    return np.asarray(cell)


def glyph_class(char: str, style: str, half: int) -> int:
    """Number a text cell: `half` 0 is the upper cell of a headline glyph, 1 the lower; small glyphs have only 0."""
    variant = 2 * len(HEADLINE_STYLES) if style == "small" else 2 * HEADLINE_STYLES.index(style) + half
    return CHARS.index(char) * (2 * len(HEADLINE_STYLES) + 1) + variant


@functools.cache
def _half_is_blank(char: str, style: str, half: int) -> bool:
    return int(glyph_mask(char, style)[half * CELL : (half + 1) * CELL].max()) < 64


def text_cells(design: Design) -> np.ndarray:
    """Return the text token of every cell, int (rows, columns), -1 where the cell shows background only."""
    tokens = np.full((design.num_rows, design.num_columns), -1, dtype=np.int64)
    ink_offset = list(INKS).index(design.ink) * NUM_GLYPH_CLASSES
    for line in design.lines:
        for i, char in enumerate(line.text):
            if char == " ":
                continue
            for half in range(line.num_rows):
                if not _half_is_blank(char, line.style, half):
                    cell = ink_offset + glyph_class(char, line.style, half)
                    tokens[line.row + half, line.column + i] = cell
    return tokens


def draw_background(design: Design, cell_size: int) -> np.ndarray:
    """Draw everything but the text at `cell_size` px a cell, float32 (rows * cell_size, columns * cell_size, 3)."""
    height, width = design.num_rows * cell_size, design.num_columns * cell_size
    ramp = np.repeat((np.arange(design.num_rows, dtype=np.float32) + 0.5) / design.num_rows, cell_size)
    top, bottom = np.float32(design.top_color), np.float32(design.bottom_color)
    picture = np.repeat((top + (bottom - top) * ramp[:, None])[:, None, :], width, axis=1)
    if design.shapes:
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / cell_size
        x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / cell_size
        for shape in design.shapes:
            coverage = np.clip(0.5 - _distance(shape, y, x) * cell_size, 0, 1)[..., None]
            picture = picture * (1 - coverage) + np.float32(shape.color) * coverage
    return picture


def _distance(shape: Shape, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance in cells to the outline of a shape, negative inside."""
    dy, dx = np.abs(y - shape.y), np.abs(x - shape.x)
    if shape.kind == "circle":
        return np.hypot(dy, dx) - shape.half_width
    if shape.kind == "ring":
        return np.abs(np.hypot(dy, dx) - shape.half_width) - shape.half_height
    box = np.maximum(dy - shape.half_height, dx - shape.half_width)
    if shape.kind == "frame":
        return np.maximum(box, -box - 0.5)
    return box


def draw(design: Design) -> np.ndarray:
    """Draw a design at 32 px a cell, uint8 (height, width, 3)."""
    picture = draw_background(design, CELL)
    ink = np.float32(INKS[design.ink])
    for line in design.lines:
        for i, char in enumerate(line.text):
            if char != " ":
                mask = glyph_mask(char, line.style)[..., None] / np.float32(255)
                y, x = line.row * CELL, (line.column + i) * CELL
                area = picture[y : y + mask.shape[0], x : x + CELL]
                area += (ink - area) * mask
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def background_features(picture: np.ndarray, cell_size: int) -> np.ndarray:
    """Describe cells by their 4 x 4 mean colours in 0..1, float32 (rows, columns, 48)."""
    side, step = BACKGROUND_FEATURE_SIDE, cell_size // BACKGROUND_FEATURE_SIDE
    rows, columns = picture.shape[0] // cell_size, picture.shape[1] // cell_size
    blocks = picture.reshape(rows, side, step, columns, side, step, 3).mean(axis=(2, 5))
    return (blocks.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1) / 255).astype(np.float32)


class BackgroundCodebook:
    """The tokens of cells without text: centres of their 4 x 4 mean colours, (centres, 48)."""

    def __init__(self, centres: np.ndarray):
        self.centres = centres.astype(np.float32)
        self._half_norms = (self.centres**2).sum(1) / 2

    @classmethod
    def load(cls, path: Path) -> "BackgroundCodebook":
        return cls(np.asarray(json.loads(path.read_text()), dtype=np.float32) / 255)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps((self.centres * 255).round(1).tolist()))

    def tokens(self, features: np.ndarray) -> np.ndarray:
        """Name every described cell: int (rows, columns), NUM_TEXT_TOKENS .. CODEBOOK_SIZE - 1."""
        flat = features.reshape(-1, features.shape[-1])
        nearest = (flat @ self.centres.T - self._half_norms).argmax(1)
        return nearest.reshape(features.shape[:-1]) + NUM_TEXT_TOKENS


def prior_tokens(design: Design, codebook: BackgroundCodebook) -> np.ndarray:
    """Return the prior tokens of a design, int64 (rows, columns)."""
    background = codebook.tokens(background_features(draw_background(design, 8), 8))
    text = text_cells(design)
    return np.where(text >= 0, text, background)


def build_codebook(random_designs, num_designs: int = 3000) -> BackgroundCodebook:
    """Make the background codebook: the palette, then k-means++ centres of what designs show besides text.

    Args:
        random_designs: callable, seed -> Design.
        num_designs: how many designs are looked at.
    """
    from sklearn.cluster import MiniBatchKMeans

    solid = np.repeat(np.float32(list(PALETTE.values())) / 255, BACKGROUND_FEATURE_SIDE**2, axis=0)
    solid = solid.reshape(len(PALETTE), -1)
    features = []
    for seed in range(num_designs):
        cells = background_features(draw_background(random_designs(seed), 8), 8).reshape(-1, 48)
        features.append(np.unique((cells * 255).round().astype(np.uint8), axis=0))
    # Any colour a reference picture may show needs a token too: a coarse grid over the cube, solid and in halves.
    rng = np.random.default_rng(0)
    solids = rng.random((4000, 1, 3)).repeat(16, 1).reshape(4000, 48)
    halves = np.where(rng.random((3000, 1)) < 0.5, np.arange(16) < 8, np.arange(16) % 4 < 2)[..., None]
    halves = np.where(halves, rng.random((3000, 1, 3)), rng.random((3000, 1, 3))).reshape(3000, 48)
    data = np.concatenate([np.concatenate(features) / 255, solids, halves]).astype(np.float32)
    num_centres = CODEBOOK_SIZE - NUM_TEXT_TOKENS - len(PALETTE)
    kmeans = MiniBatchKMeans(num_centres, batch_size=4096, n_init=1, random_state=0).fit(data)
    return BackgroundCodebook(np.concatenate([solid, kmeans.cluster_centers_]))


def contrasting_ink(color: tuple[int, int, int]) -> str:
    """Choose the ink that reads best on a background colour."""
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return "black" if luminance > 140 else "white"


def shuffled(rng: random.Random, items: list) -> list:
    """Return a shuffled copy."""
    return rng.sample(items, len(items))
