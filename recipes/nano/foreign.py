"""Pictures that are no designs, and what people ask of them: keep it, write on it, recolour a part, tone the whole."""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from designs import random_text, random_word
from prompts import PLACE_WORDS, QUOTES, STYLE_WORDS, TREATMENT_WORDS, color_word
from renderer import LIGHT, Design, Line, Shape, draw_background, luminance
from type_tokens import PALETTE, PLACES, STYLES

RGB = tuple[int, int, int]
PX = 8  # a cell, as in Design.backdrop
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BACKS = "sky;wall;background;backdrop;air;heaven;ceiling;top of the picture;area behind it;upper part"
GROUNDS = (
    "ground;floor;grass;sea;water;meadow;sand;snow;field;street;bottom of the picture;foreground;lower part;carpet"
)
MIDDLES = "mountains;forest;trees;horizon;town;hedge;dunes;range"
THINGS = (
    "ball;bottle;box;book;vase;bag;kite;lamp;shirt;dress;hat;chair;sofa;bus;train;plane;rocket;fish;bird;cat;dog;cake;"
    "apple;pear;lemon;leaf;sun;moon;planet;sign;door;window;tower;bridge;umbrella;tent;phone;clock;guitar;drum;shoe;"
    "jacket;pot;plate;bowl;candle;gem;shield;flag;ship;bike;truck;robot;toy;statue;curtain;pillow;object;thing;shape;"
    "subject;main object;object in the middle"
)
PARTS_OF = {  # the shapes of an object that has parts, (kind, y, x, half height, half width) in units of its size
    "house": {"walls": ("box", 0.35, 0, 0.45, 0.6), "roof": ("triangle", -0.4, 0, 0.4, 0.8)},
    "tree": {"trunk": ("box", 0.6, 0, 0.4, 0.12), "crown": ("circle", -0.25, 0, 0.6, 0.6)},
    "boat": {"hull": ("box", 0.5, 0, 0.2, 0.8), "sail": ("triangle", -0.3, 0, 0.6, 0.6)},
    "lamp post": {"post": ("box", 0.3, 0, 0.7, 0.08), "light": ("circle", -0.6, 0, 0.3, 0.3)},
    "parcel": {"carton": ("box", 0, 0, 0.6, 0.8), "ribbon": ("box", 0, 0, 0.6, 0.12)},
    "target": {"rim": ("circle", 0, 0, 0.9, 0.9), "centre": ("circle", 0, 0, 0.4, 0.4)},
}
NAMED_BY_COLOR = (
    "change the {o} to {c};turn everything {o} into {c};{c} instead of {o};replace {o} by {c};from {o} to {c};"
    "the {o} part should be {c};what is {o} should be {c};recolour the {o} area in {c};make the {o} parts {c};"
    "the {o} {n} should be {c};make the {o} {n} {c};change the {o} {n} to {c};a {c} {n} instead of the {o} one;"
    "{c} {n} instead of {o};all that is {o} becomes {c};swap {o} for {c}"
)
NAMED = (
    "make the {n} {c};the {n} should be {c};change the {n} to {c};turn the {n} {c};paint the {n} {c};{c} {n};"
    "colour the {n} {c};recolour the {n} in {c};give it a {c} {n};a {c} {n} please;dye the {n} {c};with a {c} {n};"
    "change the colour of the {n} to {c};I want the {n} in {c};show the {n} in {c};make the {n} look {c};"
    "give the {n} a {c} colour;let the {n} be {c};set the color of the {n} to {c}"
)
KEEP = (
    "keep it as it is;the same picture;improve the quality;make it sharper;same again;enhance this picture;"
    "a clean version of this;cinematic light;make it look professional;reproduce this image"
)
WRITE = "add the text {q} {w} in {s};write {q} {w} in {s};put {q} on it {w}, {s};title it {q} {w} in {s}"


@dataclass(frozen=True)
class Layer:
    """What lies over the layers before it.

    coverage: 0..1, float32 (8 * rows, 8 * columns); nouns: what it is called.
    """

    coverage: np.ndarray
    color: RGB
    nouns: str


@dataclass(frozen=True)
class PictureEdit:
    """Source and target as designs, the instruction, and the cells that it changes, bool (rows, columns)."""

    source: Design
    target: Design
    prompt: str
    changed: np.ndarray


def random_picture_edit(rng: random.Random, words: list[str], grid: tuple[int, int]) -> PictureEdit:
    """Draw a picture that is no design, and what is asked of it."""
    rows, columns = grid
    kind = rng.random()
    if kind < 0.15:  # anything at all
        from vae import random_shapes, random_texture

        side = max(grid)
        square = random_texture(rng, side * PX) if rng.random() < 0.5 else random_shapes(rng, side, PX)
        picture = np.ascontiguousarray(square[: rows * PX, : columns * PX])
        layers, shading = [], np.zeros(picture.shape, np.float32)
    else:
        layers, shading = random_scene(rng, words, rows, columns), random_shading(rng, rows, columns)
        picture = paint_layers(layers, shading)
    source = Design(rows, columns, BLACK, BLACK, backdrop=picture)
    nothing = np.zeros(grid, bool)
    wish = rng.random()
    if wish < 0.1:
        return PictureEdit(source, source, rng.choice(KEEP.split(";")), nothing)
    if wish < 0.22:
        target, prompt = _write_on(rng, words, source)
        return PictureEdit(source, target, prompt, nothing)
    if wish < 0.36 or not layers:
        name = rng.choice(list(TREATMENTS))
        prompt = rng.choice(TREATMENT_WORDS[name].split(";"))
        target = replace(source, backdrop=TREATMENTS[name](picture))
        return PictureEdit(source, target, prompt, ~nothing)
    which, prompt = _choose_layer(rng, words, layers)
    name = rng.choice([c for c in PALETTE if c != _name_of(layers[which].color)])
    changed = [replace(layer, color=PALETTE[name]) if i == which else layer for i, layer in enumerate(layers)]
    target = replace(source, backdrop=paint_layers(changed, shading))
    shares = visible_shares(layers)[which].reshape(rows, PX, columns, PX).mean((1, 3))
    return PictureEdit(source, target, prompt.replace("{c}", color_word(rng, name)), shares > 0.02)


def _write_on(rng: random.Random, words: list[str], source: Design) -> tuple[Design, str]:
    rows, columns = source.num_rows, source.num_columns
    text = random_text(rng, words, columns - 2, rng.choice([1, 1, 2]))
    row_name = rng.choice(PLACES)
    row = {"top": 1, "middle": rows // 2 - 1, "bottom": rows - 3}[row_name]
    assert source.backdrop is not None
    band = source.backdrop[row * PX : (row + 2) * PX].reshape(-1, 3).mean(0)
    ink = "black" if luminance(tuple(band)) > LIGHT else "white"
    line = Line(text, row, (columns - len(text)) // 2, rng.choice(STYLES))
    where = rng.choice(PLACE_WORDS[row_name].split(";"))
    opening, closing = ('"', '"') if "'" in text else rng.choice(QUOTES)
    style = rng.choice(STYLE_WORDS[line.style].split(";"))
    prompt = rng.choice(WRITE.split(";")).format(q=f"{opening}{text}{closing}", w=where, s=style)
    return replace(source, lines=(line,), ink=ink), prompt


def _choose_layer(rng: random.Random, words: list[str], layers: list[Layer]) -> tuple[int, str]:
    """Choose a layer that can be told from the others, and the phrase that names it ("{c}": the new colour)."""
    shares = visible_shares(layers).mean((1, 2))
    names = [_name_of(layer.color) for layer in layers]
    can_be_seen = [i for i, share in enumerate(shares) if share > 0.015]
    which = rng.choice(can_be_seen)
    noun = rng.choice(layers[which].nouns.split(";"))
    if names.count(names[which]) == 1 and rng.random() < 0.4:
        if rng.random() < 0.5:
            noun = rng.choice([*THINGS.split(";"), random_word(rng, words).lower()])
        old = color_word(rng, names[which])
        return which, rng.choice(NAMED_BY_COLOR.split(";")).replace("{o}", old).replace("{n}", noun)
    return which, rng.choice(NAMED.split(";")).replace("{n}", noun)


def _name_of(color: RGB) -> str:
    return min(PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(color, PALETTE[name], strict=True)))


def _any_color(rng: random.Random) -> RGB:
    """Draw a colour near one of the palette, or any."""
    if rng.random() < 0.25:
        return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    r, g, b = (min(max(value + rng.randint(-25, 25), 0), 255) for value in PALETTE[rng.choice(list(PALETTE))])
    return (r, g, b)


def random_scene(rng: random.Random, words: list[str], rows: int, columns: int) -> list[Layer]:
    """Draw layers from back to front: a back, perhaps a ground and what stands on the horizon, one to three objects."""
    layers = [Layer(np.ones((rows * PX, columns * PX), np.float32), _any_color(rng), BACKS)]
    horizon = rng.uniform(0.45, 0.85)
    has_ground = rng.random() < 0.65
    if has_ground and rng.random() < 0.25:
        layers.append(Layer(_below(rng, rows, columns, horizon - 0.15), _any_color(rng), MIDDLES))
    if has_ground:
        layers.append(Layer(_below(rng, rows, columns, horizon), _any_color(rng), GROUNDS))
    size = rng.uniform(0.2, 0.4) * min(rows, columns)
    y = rows * (horizon if has_ground else 0.5) - size * rng.uniform(0, 0.6)
    x = columns * rng.uniform(0.35, 0.65)
    if rng.random() < 0.3:
        parts = list(PARTS_OF[rng.choice(list(PARTS_OF))].items())
    else:
        shape = rng.choice(["circle", "box", "box", "triangle", "star"]), 0, 0, rng.uniform(0.5, 1), rng.uniform(0.5, 1)
        parts = [(f"{rng.choice(THINGS.split(';'))};{random_word(rng, words).lower()}", shape)]
    for noun, (kind, down, right, high, wide) in parts:
        placed = Shape(kind, y + down * size, x + right * size, high * size, wide * size, WHITE)
        layers.append(Layer(_cover(rows, columns, placed), _any_color(rng), noun))
    for _ in range(rng.choice([0, 0, 1, 2])):  # details that nobody speaks of but by their colour
        detail = size * rng.uniform(0.15, 0.3)
        where = (y + size * rng.uniform(-1, 1), x + size * rng.uniform(-1.6, 1.6))
        placed = Shape(rng.choice(["circle", "box", "triangle"]), *where, detail, detail, WHITE)
        layers.append(Layer(_cover(rows, columns, placed), _any_color(rng), "small thing;detail;small one"))
    return layers


def _cover(rows: int, columns: int, shape: Shape) -> np.ndarray:
    return draw_background(Design(rows, columns, BLACK, BLACK, (), (shape,)), PX)[..., 0] / 255


def _below(rng: random.Random, rows: int, columns: int, horizon: float) -> np.ndarray:
    """Cover what lies below a horizon (0..1 of the height), which is straight or waved."""
    x = np.linspace(0, 2 * np.pi, columns * PX, dtype=np.float32)
    wave = np.zeros_like(x)
    if rng.random() < 0.5:
        wave = sum(rng.uniform(0, 0.08) * np.sin(k * x + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    edge = (horizon + wave) * rows * PX
    return np.clip(np.arange(rows * PX, dtype=np.float32)[:, None] - edge + 0.5, 0, 1)


def random_shading(rng: random.Random, rows: int, columns: int) -> np.ndarray:
    """Draw light and grain that lie over all layers, float32 (8 * rows, 8 * columns, 1)."""
    noise = torch.from_numpy(np.random.default_rng(rng.getrandbits(32)).standard_normal((1, 1, 64, 64), np.float32))
    shading = torch.zeros(1, 1, rows * PX, columns * PX)
    for side, most in ((2, 25), (6, 12), (24, 8), (64, 5)):
        soft = F.interpolate(noise[..., :side, :side], shading.shape[2:], mode="bicubic", align_corners=False)
        shading += soft * rng.uniform(0, most)
    return shading[0, 0, :, :, None].numpy()


def visible_shares(layers: list[Layer]) -> np.ndarray:
    """Return how much of every pixel each layer is, float32 (layers, height, width)."""
    shares, left = [], np.ones_like(layers[0].coverage)
    for layer in reversed(layers):
        shares.append(layer.coverage * left)
        left = left * (1 - layer.coverage)
    return np.stack(shares[::-1])


def paint_layers(layers: list[Layer], shading: np.ndarray) -> np.ndarray:
    """Paint layers under a shading, uint8 (height, width, 3)."""
    colors = np.float32([layer.color for layer in layers])
    picture = np.einsum("lhw,lc->hwc", visible_shares(layers), colors) + shading
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])


def _sepia(picture: np.ndarray) -> np.ndarray:
    return np.clip(_grey(picture)[..., None] * np.float32([1.07, 0.92, 0.72]), 0, 255).astype(np.uint8)


TREATMENTS = {
    "invert": lambda picture: 255 - picture,
    "sepia": _sepia,
    "grey": lambda picture: np.repeat(_grey(picture)[..., None], 3, axis=2).astype(np.uint8),
    "darker": lambda picture: (picture * 0.55).astype(np.uint8),
    "lighter": lambda picture: (255 - (255 - picture) * 0.55).astype(np.uint8),
}
