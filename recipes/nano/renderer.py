"""Draw the designs that nano learns from: text set on the token grid, over plain or shaped backgrounds.

Every glyph fills whole 32 px cells (type_tokens.py), so that the set of text cells is finite and a token can name
each: that is what makes spelling learnable by a small prior. The plain cells of the uppermost row name the ink. The
cells left of a line tell how far away it is ("plain red, type begins in 5 columns"), and the first cell of a row how
far below the next line stands, or right above it the line's number, under which the plan describes it. The second
cell of a row counts down to a shape, the third to the shape's end, and the cells left of it to where it begins; the
last of them names one that is round or slanted. The decoder paints them all as plain, but the prior only
has to count down and to look up. A gradient is named by four steps from colour to colour, which the decoder smooths.
A design is drawn from numbers alone; the same design gives its picture and its prior tokens.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from type_tokens import (
    COLORS,
    COLUMNS,
    FIRST_BACKGROUND,
    FORM,
    FORM_KINDS,
    FORMS,
    GLYPH_CELLS,
    INK,
    LINE,
    MAX_COLUMNS,
    MAX_LINES,
    MAX_ROWS,
    MIX_STEPS,
    MIXES,
    NUM_LEARNT,
    NUM_MESSAGES,
    NUM_STENCILS,
    NUM_TEXT_TOKENS,
    PALETTE,
    ROWS,
    STENCIL,
    STYLES,
    STYLES_OF,
    message,
    mix,
    text_token,
)

CELL = 32  # px a prior token covers on each side
# Debian packages fonts-liberation and fonts-dejavu-core (OFL 1.1; Bitstream Vera licence): file, size in px.
FONTS = {
    "sans": ("LiberationSans-Bold.ttf", 52),
    "serif": ("DejaVuSerif-Bold.ttf", 46),
    "mono": ("LiberationMono-Bold.ttf", 54),
    "sans regular": ("LiberationSans-Regular.ttf", 52),
    "serif regular": ("DejaVuSerif.ttf", 47),
    "mono regular": ("LiberationMono-Regular.ttf", 54),
}
SMALL_FONT = ("LiberationSans-Bold.ttf", 29)
# Small letters of display type just reach the uppermost of its three rows, so that every letter is spelt there.
DISPLAY_SIZE, BASELINES = 82, {"small": 24, "headline": 49, "display": 72}
BACKGROUND_FEATURE_SIDE = 4  # a background cell is described by its 4 x 4 mean colours
ROUNDING = 1e-6  # of a cell: what ends at a cell's edge does not touch the next
LIGHT = 140  # luminance above which black reads better than white
BLACK = (0, 0, 0)
SAME = 0.25  # so far apart may be what two cells show that have one stencil
PALETTE_LEAD = 1e-4  # half a squared distance: a learnt centre that equals a palette colour must not take its place


@dataclass(frozen=True)
class Line:
    """One line of type: `row` and `column` are cells of its upper left corner; size small, headline or display."""

    text: str
    row: int
    column: int
    style: str
    size: str = "headline"

    @property
    def num_rows(self) -> int:
        return GLYPH_CELLS[self.size][0]

    @property
    def num_columns(self) -> int:
        return GLYPH_CELLS[self.size][1] * len(self.text)


@dataclass(frozen=True)
class Shape:
    """A filled form in cell units with centre, half sizes and colour.

    kind: circle, ring, frame, stripe, box, star, arrow, triangle, or badge: a circle with a ring on it.
    """

    kind: str
    y: float
    x: float
    half_height: float
    half_width: float
    color: tuple[int, int, int]

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """The cells that it touches: first row, first column, rows, columns."""
        half_height, half_width = self.half_height, self.half_width
        if self.kind == "ring":  # a ring's half height is half its thickness
            half_width += half_height
        if self.kind in ("circle", "ring", "star", "badge"):
            half_height = half_width
        row, column = math.floor(self.y - half_height + ROUNDING), math.floor(self.x - half_width + ROUNDING)
        last_row, last_column = math.ceil(self.y + half_height - ROUNDING), math.ceil(self.x + half_width - ROUNDING)
        return row, column, last_row - row, last_column - column


@dataclass(frozen=True)
class Design:
    """What a picture shows: grid size in cells, background (top and bottom colour), lines, their ink, and shapes.

    backdrop: a picture at 8 px a cell, uint8 (8 * rows, 8 * columns, 3), that stands in place of the background.
    """

    num_rows: int
    num_columns: int
    top_color: tuple[int, int, int]
    bottom_color: tuple[int, int, int]
    lines: tuple[Line, ...] = ()
    shapes: tuple[Shape, ...] = ()
    ink: str = "white"
    backdrop: np.ndarray | None = None


def luminance(color: tuple[int, int, int]) -> float:
    """Return the luminance of a colour, 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Return the difference in luminance."""
    return abs(luminance(one) - luminance(other))


def nearest_color(color: Sequence[float]) -> str:
    """Return the name of the nearest colour of the palette."""
    return min(PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(color, PALETTE[name], strict=True)))


def contrasting_ink(name: str) -> str:
    """Choose black or white, whichever reads best on a palette colour."""
    return "black" if luminance(PALETTE[name]) > LIGHT else "white"


def find_font(file_name: str) -> Path:
    """Find an installed font file; raise SystemExit naming the Debian packages when it is missing."""
    for root in (Path("/usr/share/fonts"), Path.home() / ".local/share/fonts"):
        for path in root.rglob(file_name):
            return path
    raise SystemExit(f"font {file_name} not found: apt-get install fonts-liberation fonts-dejavu-core")


@functools.cache
def glyph_mask(char: str, size: str, style: str) -> np.ndarray:
    """Return the coverage of one glyph, uint8, whole cells of 32 px; wide glyphs are squeezed."""
    rows, columns = GLYPH_CELLS[size]
    if style in STYLES:
        style = STYLES_OF[size][STYLES.index(style) % len(STYLES_OF[size])]
    file_name, font_size = SMALL_FONT if size == "small" else FONTS[style]
    font = ImageFont.truetype(str(find_font(file_name)), DISPLAY_SIZE if size == "display" else font_size)
    height, width = rows * CELL, columns * CELL
    canvas = Image.new("L", (5 * width, height), 0)
    ImageDraw.Draw(canvas).text((2.5 * width, BASELINES[size]), char, font=font, fill=255, anchor="ms")
    box = canvas.getbbox()
    cell = Image.new("L", (width, height), 0)
    if box is None:
        return np.asarray(cell)
    crop = canvas.crop((box[0], 0, box[2], height))
    if crop.width > width - 2:
        crop = crop.resize((width - 2, height), Image.Resampling.LANCZOS)
    cell.paste(crop, ((width - crop.width) // 2, 0))
    return np.asarray(cell)


@functools.cache
def visible_parts(char: str, size: str, style: str) -> tuple[tuple[int, int], ...]:
    """Return the cells of a glyph that show any of it, (row, column) inside the glyph."""
    mask = glyph_mask(char, size, style)
    rows, columns = GLYPH_CELLS[size]
    cells = mask.reshape(rows, CELL, columns, CELL).max(axis=(1, 3))
    return tuple((r, c) for r in range(rows) for c in range(columns) if cells[r, c] >= 64)


def text_cells(design: Design) -> np.ndarray:
    """Return the text token of every cell, int (rows, columns), -1 where the cell shows background only."""
    tokens = np.full((design.num_rows, design.num_columns), -1, dtype=np.int64)
    for line in design.lines:
        step = GLYPH_CELLS[line.size][1]
        for i, char in enumerate(line.text):
            if char == " ":
                continue
            for r, c in visible_parts(char, line.size, line.style):
                token = text_token(char, line.size, r, c, line.style)
                tokens[line.row + r, line.column + step * i + c] = token
    return tokens


def draw_background(design: Design, cell_size: int) -> np.ndarray:
    """Draw everything but the text at `cell_size` px a cell, float32 (rows * cell_size, columns * cell_size, 3)."""
    height, width = design.num_rows * cell_size, design.num_columns * cell_size
    if design.backdrop is not None:
        backdrop = Image.fromarray(design.backdrop).resize((width, height), Image.Resampling.BICUBIC)
        return np.array(backdrop, np.float32)
    steps = np.arange(design.num_rows, dtype=np.float32) / max(design.num_rows - 1, 1)
    ramp = np.repeat(steps, cell_size)  # the first and the last row have the very colours asked for
    top, bottom = np.float32(design.top_color), np.float32(design.bottom_color)
    picture = np.repeat((top + (bottom - top) * ramp[:, None])[:, None, :], width, axis=1)
    if design.shapes:
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / cell_size
        x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / cell_size
        for part in itertools.chain.from_iterable(map(_parts, design.shapes)):
            coverage = np.clip(0.5 - _distance(part, y, x) * cell_size, 0, 1)[..., None]
            picture = picture * (1 - coverage) + np.float32(part.color) * coverage
    return picture


def _parts(shape: Shape) -> tuple[Shape, ...]:
    if shape.kind != "badge":
        return (shape,)
    line = PALETTE["black" if luminance(shape.color) > LIGHT else "white"]
    inner = Shape("ring", shape.y, shape.x, 0.15, shape.half_width - 0.5, line)
    return (replace(shape, kind="circle"), inner)


def _distance(shape: Shape, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance in cells to the outline of a shape, negative inside."""
    dy, dx = np.abs(y - shape.y), np.abs(x - shape.x)
    if shape.kind == "circle":
        return np.hypot(dy, dx) - shape.half_width
    if shape.kind == "ring":
        return np.abs(np.hypot(dy, dx) - shape.half_width) - shape.half_height
    if shape.kind == "star":
        angle = np.arctan2(x - shape.x, shape.y - y)
        fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        # the edge from a point at radius 1 to a notch at radius .42, as a half plane in the folded wedge
        px, py = np.hypot(dy, dx) * np.cos(fold), np.hypot(dy, dx) * np.sin(fold)
        nx, ny = 0.42 * np.sin(np.pi / 5), 1 - 0.42 * np.cos(np.pi / 5)
        return (px * nx + py * ny - shape.half_width * nx) / np.hypot(nx, ny)
    if shape.kind == "triangle":
        return np.maximum((2 * dx - (y - shape.y + shape.half_height)) / 5**0.5, y - shape.y - shape.half_height)
    if shape.kind == "arrow":
        reach = x - shape.x
        half_shaft = shape.half_width - shape.half_height / 2
        shaft = np.maximum(dy - shape.half_height * 0.4, np.abs(reach + shape.half_height / 2) - half_shaft)
        head = np.maximum((dy + reach - shape.half_width) / 2**0.5, shape.half_width - shape.half_height - reach)
        return np.minimum(shaft, head)
    box = np.maximum(dy - shape.half_height, dx - shape.half_width)
    if shape.kind == "frame":  # whole cells of one colour, which the palette names
        return np.maximum(box, -box - 1.0)
    return box


def draw(design: Design) -> np.ndarray:
    """Draw a design at 32 px a cell, uint8 (height, width, 3)."""
    picture = draw_background(design, CELL)
    ink = np.float32(PALETTE[design.ink])
    for line in design.lines:
        step = GLYPH_CELLS[line.size][1]
        for i, char in enumerate(line.text):
            if char != " ":
                mask = glyph_mask(char, line.size, line.style)[..., None] / np.float32(255)
                y, x = line.row * CELL, (line.column + step * i) * CELL
                area = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
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
        self.half_norms = (self.centres**2).sum(1) / 2
        self.half_norms[: len(PALETTE)] -= PALETTE_LEAD

    @classmethod
    def load(cls, path: Path) -> "BackgroundCodebook":
        return cls(np.load(path).astype(np.float32) / 255)

    def save(self, path: Path) -> None:
        np.save(path, (self.centres * 255).round().astype(np.uint8))

    def tokens(self, features: np.ndarray) -> np.ndarray:
        """Name every described cell: int (rows, columns), FIRST_BACKGROUND .. CODEBOOK_SIZE - 1."""
        flat = np.ascontiguousarray(features.reshape(-1, features.shape[-1]))
        rows = flat.view(f"V{flat.itemsize * flat.shape[1]}").ravel()  # most cells are alike
        _, first, same = np.unique(rows, return_index=True, return_inverse=True)
        nearest = (flat[first] @ self.centres.T - self.half_norms).argmax(1)[same]
        return nearest.reshape(features.shape[:-1]) + FIRST_BACKGROUND


def cell_tokens(design: Design, codebook: BackgroundCodebook) -> np.ndarray:
    """Return what every cell shows, int64 (rows, columns): a part of a glyph, or background."""
    background = codebook.tokens(background_features(draw_background(design, 8), 8))
    text = text_cells(design)
    return np.where(text >= 0, text, background)


def source_tokens(design: Design, codebook: BackgroundCodebook) -> np.ndarray:
    """Return what a reference picture is to be read as, int64 (rows, columns): where it is plain it names the ink.

    The tokens of type do not name it, and an edit that does not speak of it is to keep it.
    """
    tokens = cell_tokens(design, codebook)
    colors = tokens - FIRST_BACKGROUND
    is_plain = (colors >= 0) & (colors < len(COLORS))
    if design.lines:
        tokens[is_plain] = message(0, INK + COLORS.index(design.ink)) + NUM_MESSAGES * colors[is_plain]
    return tokens


def prior_tokens(design: Design, codebook: BackgroundCodebook) -> np.ndarray:
    """Return the prior tokens of a design, int64 (rows, columns): its cells, the ink, the distances to the type."""
    tokens = cell_tokens(design, codebook)
    if _is_ramp(design):
        tokens = _step(design, tokens)
    is_text, written = tokens < NUM_TEXT_TOKENS, tokens.copy()
    colors = np.where(tokens - FIRST_BACKGROUND < len(COLORS), tokens - FIRST_BACKGROUND, -1)

    def say(row: int, column: int, what: int) -> None:
        written[row, column] = message(int(colors[row, column]), what)

    begins = {line.row: line.column for line in design.lines}
    numbers = {line.row: LINE + min(i, MAX_LINES - 1) for i, line in enumerate(design.lines)}
    for row in range(1, design.num_rows):
        ahead = [r for r in begins if r >= row]
        if not ahead:
            break
        if ahead[0] == row:
            first = begins[row]
            for column in range(first):
                if colors[row, column] >= 0 or _is_ramp(design):
                    say(row, column, COLUMNS + min(first - column, MAX_COLUMNS) - 1)
        else:
            column = int(colors[row, 0] < 0 and not _is_ramp(design))  # beside a frame
            if not is_text[row, column] and (colors[row, column] >= 0 or _is_ramp(design)):
                away = ahead[0] - row
                say(row, column, numbers[ahead[0]] if away == 1 else ROWS + min(away, MAX_ROWS))
    for shape in design.shapes[:1]:  # only walls have several, and nothing leads to those
        if shape.kind != "frame":
            _point_to(shape, tokens, colors, written)
    if design.lines:
        # a frame is of another colour, on which this ink need not be one that can be seen
        is_ground = (colors >= 0) & ~_in_frame(design)
        plain = np.flatnonzero(is_ground.any(1))
        for column in np.flatnonzero(is_ground[plain[0]]) if len(plain) else ():
            written[plain[0], column] = message(int(colors[plain[0], column]), INK + COLORS.index(design.ink))
    for shape in design.shapes:
        if shape.kind in FORM_KINDS:
            row, column, num_rows, num_columns = shape.cells
            box = written[row : row + num_rows, column : column + num_columns]
            shown = stencil_tokens(shape)
            box[:] = np.where((shown < 0) | (box < NUM_TEXT_TOKENS), box, shown)
            assert column > 0
            left = written[row : row + num_rows, column - 1]
            named = form_message(shape)
            left[:] = np.where(left < NUM_TEXT_TOKENS, left, named)
    return written


def _covers(shape: Shape) -> np.ndarray:
    """Return what each cell of a shape's box shows of it and of the ring on it, float32 (rows, columns, 2 * 64)."""
    row, column, num_rows, num_columns = shape.cells
    y = (np.arange(num_rows * CELL, dtype=np.float32)[:, None] + 0.5) / CELL + row
    x = (np.arange(num_columns * CELL, dtype=np.float32)[None, :] + 0.5) / CELL + column
    found = np.zeros((num_rows, num_columns, 2, 64), np.float32)
    for i, part in enumerate(_parts(shape)):
        coverage = np.clip(0.5 - _distance(part, y, x) * CELL, 0, 1)
        blocks = coverage.reshape(num_rows, 8, CELL // 8, num_columns, 8, CELL // 8).mean((2, 5))
        found[:, :, i] = blocks.transpose(0, 2, 1, 3).reshape(num_rows, num_columns, 64)
    return found.reshape(num_rows, num_columns, 128)


def _is_bare_or_full(covers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape, ring = covers[..., :64].mean(-1), covers[..., 64:].mean(-1)
    return shape < 0.01, (shape > 0.99) & (ring < 0.01)


@functools.cache
def stencils() -> np.ndarray:
    """Return what the cells of round and slanted shapes show that are neither bare nor full, each once: (S, 128)."""
    found: list[np.ndarray] = []
    for kind, side in FORMS:
        covers = _covers(form(kind, 0, 0, side, BLACK))
        bare, full = _is_bare_or_full(covers)
        for cell in covers[~(bare | full)]:
            if all(np.abs(cell - other).max() > SAME for other in found):
                found.append(cell)
    assert len(found) <= NUM_STENCILS, f"{len(found)} stencils: NUM_STENCILS of type_tokens.py is too small"
    return np.stack(found)


@functools.cache
def _stencils_of(kind: str, side: int) -> np.ndarray:
    """Return which stencil each cell of a form shows, int (rows, columns); -1 where it is bare, -2 where it is full."""
    covers = _covers(form(kind, 0, 0, side, BLACK))
    bare, full = _is_bare_or_full(covers)
    nearest = np.abs(covers[:, :, None] - stencils()).max(-1).argmin(-1)
    return np.where(bare, -1, np.where(full, -2, nearest))


def form_message(shape: Shape) -> int:
    """Return the token that names a round or slanted shape, in a plan and left of it in the picture."""
    return message(list(PALETTE.values()).index(shape.color), FORM + FORMS.index((shape.kind, shape.cells[3])))


def stencil_tokens(shape: Shape) -> np.ndarray:
    """Return the tokens of the cells of a round or slanted shape's box, int (rows, columns), -1 where it is bare."""
    number = _stencils_of(shape.kind, shape.cells[3])
    color = FIRST_BACKGROUND + list(PALETTE.values()).index(shape.color)
    return np.where(number >= 0, STENCIL + number, np.where(number == -2, color, -1))


def form(kind: str, top: int, left: int, side: int, color: tuple[int, int, int]) -> Shape:
    """Return a round or slanted shape, `side` cells wide, whose box begins at row `top` and column `left`."""
    half, half_height = side / 2, form_height(kind, side) / 2
    if kind == "ring":
        return Shape(kind, top + half, left + half, 0.5, half - 0.5, color)
    return Shape(kind, top + half_height, left + half, half_height, half, color)


def form_height(kind: str, side: int) -> int:
    """Return how many cells high a shape is that is `side` cells wide."""
    return side // 2 if kind == "arrow" else side


def _step(design: Design, tokens: np.ndarray) -> np.ndarray:
    """Name the rows of a gradient by steps from the one colour to the other, where nothing else is shown."""
    colors = list(PALETTE.values())
    top, bottom, last = colors.index(design.top_color), colors.index(design.bottom_color), design.num_rows - 1
    steps = [mix(top, bottom, (2 * MIX_STEPS * row + last) // (2 * last)) for row in range(design.num_rows)]
    bare = draw_background(replace(design, shapes=()), 8)
    is_bare = (bare == draw_background(design, 8)).reshape(design.num_rows, 8, design.num_columns, -1).all((1, 3))
    return np.where(is_bare & (tokens >= NUM_TEXT_TOKENS), np.array(steps)[:, None], tokens)


def _in_frame(design: Design) -> np.ndarray:
    """Say which cells are a frame's, bool (rows, columns)."""
    cells = np.zeros((design.num_rows, design.num_columns), bool)
    for shape in design.shapes:
        if shape.kind == "frame":
            row, column, num_rows, num_columns = shape.cells
            cells[row : row + num_rows, column : column + num_columns] = True
            cells[row + 1 : row + num_rows - 1, column + 1 : column + num_columns - 1] = False
    return cells


def _point_to(shape: Shape, tokens: np.ndarray, colors: np.ndarray, written: np.ndarray) -> None:
    """Let plain cells that say nothing yet tell how far away a shape begins and ends."""
    first_row, first_column, num_rows, _ = shape.cells
    rows = np.arange(len(tokens))
    told = {(row, 1): ROWS + min(first_row - row, MAX_ROWS) for row in rows[1:first_row]}
    for row in rows[max(first_row, 0) : first_row + num_rows]:
        told[row, 2] = ROWS + min(first_row + num_rows - row, MAX_ROWS)
        told |= {(row, c): COLUMNS + min(first_column - c, MAX_COLUMNS) - 1 for c in range(3, first_column)}
    for (row, column), what in told.items():
        if colors[row, column] >= 0 and written[row, column] == tokens[row, column]:
            written[row, column] = message(int(colors[row, column]), what)


def _is_ramp(design: Design) -> bool:
    return design.top_color != design.bottom_color and design.backdrop is None


def build_codebook(random_designs, num_designs: int = 3000) -> BackgroundCodebook:
    """Make the background codebook: the palette, mixtures, then k-means++ centres of what designs show besides text.

    Args:
        random_designs: callable, seed -> Design.
        num_designs: how many designs are looked at.
    """
    from sklearn.cluster import MiniBatchKMeans

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
    kmeans = MiniBatchKMeans(NUM_LEARNT, batch_size=4096, n_init=1, random_state=0).fit(data)
    return BackgroundCodebook(np.concatenate([named_centres(), kmeans.cluster_centers_]))


def named_centres() -> np.ndarray:
    """Return the centres that have names, the palette's and its mixtures', in 0..1, float32 (centres, 48)."""
    palette = np.float32(list(PALETTE.values())) / 255
    near, far, quarters = np.array(MIXES).T
    mixtures = palette[near] + (palette[far] - palette[near]) * np.float32(quarters / MIX_STEPS)[:, None]
    return np.tile(np.concatenate([palette, mixtures]), BACKGROUND_FEATURE_SIDE**2)
