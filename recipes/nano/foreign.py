"""Foreign pictures, which are no designs, and what is asked of them: keep, write on it, recolour a part, tone all."""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from designs import random_text
from prompts import PLACE_WORDS, STYLE_WORDS, TREATMENT_WORDS, color_word, other_word, quoted, say_colors
from renderer import LIGHT, Design, Line, Shape, draw_background, luminance, nearest_color
from type_tokens import PALETTE, PLACES, STYLES

RGB = tuple[int, int, int]
PX = 8  # a cell, as in Design.backdrop
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BACKS = "wall;background;backdrop;area behind it;rest of the picture"
SKIES = "sky;air;heaven;ceiling;top of the picture;upper part;wall;backdrop"  # over a ground
GROUNDS = "ground;floor;grass;sea;water;meadow;sand;snow;field;street;bottom of the picture;foreground;lower part"
MIDDLES = "mountains;forest;trees;horizon;town;hedge;dunes;range"
THINGS = (
    "ball;bottle;box;book;vase;bag;kite;lamp;shirt;dress;hat;chair;sofa;bus;train;plane;rocket;fish;bird;cat;dog;cake;"
    "apple;pear;lemon;leaf;sun;moon;planet;sign;door;window;tower;bridge;umbrella;tent;phone;clock;guitar;drum;shoe;"
    "jacket;pot;plate;bowl;candle;gem;shield;flag;ship;bike;truck;robot;toy;statue;curtain;pillow;object;thing;shape;"
    "subject;main object"
)
# of objects: what they are called, and (kind, y, x, half height, half width) in units of the object's size
PARTS = (
    {"trunk": ("box", 0.6, 0, 0.4, 0.12), "crown": ("circle", -0.25, 0, 0.6, 0.6)},
    {"hull": ("box", 0.5, 0, 0.2, 0.8), "sail": ("triangle", -0.3, 0, 0.6, 0.6)},
    {"post": ("box", 0.3, 0, 0.7, 0.08), "light": ("circle", -0.6, 0, 0.3, 0.3)},
    {"carton": ("box", 0, 0, 0.6, 0.8), "ribbon": ("box", 0, 0, 0.6, 0.12)},
    {"rim": ("circle", 0, 0, 0.9, 0.9), "centre": ("circle", 0, 0, 0.4, 0.4)},
)
NAMED_BY_COLOR = (
    "change the {o} to {c};turn everything {o} into {c};{c} instead of {o};replace {o} by {c};from {o} to {c};"
    "the {o} part should be {c};what is {o} should be {c};recolour the {o} area in {c};make the {o} parts {c};"
    "the {o} {n} should be {c};make the {o} {n} {c};change the {o} {n} to {c};{c} {n} instead of {o};"
    "all that is {o} becomes {c};swap {o} for {c}"
)
NAMED = (
    "make the {n} {c};the {n} should be {c};change the {n} to {c};turn the {n} {c};paint the {n} {c};dye the {n} {c};"
    "colour the {n} {c};recolour the {n} in {c};change the colour of the {n} to {c};I want the {n} in {c};"
    "show the {n} in {c};make the {n} look {c};give the {n} a {c} colour;let the {n} be {c};"
    "set the color of the {n} to {c}"
)
TOLD_APART = 90  # how far two colours are, in 0..255 of each channel, where one of them is asked for by its name
KEEP = (
    "keep it as it is;the same picture;improve the quality;make it sharper;same again;enhance this picture;"
    "a clean version of this;cinematic light;make it look professional;reproduce this image"
)
WRITE = "add the text {q} {w} in {s};write {q} {w} in {s};put {q} on it {w}, {s};title it {q} {w} in {s}"


@dataclass(frozen=True)
class Layer:
    """What lies over the layers before it.

    coverage: 0..1, float32 (8 * rows, 8 * columns); nouns: what it alone is called, "" where only its colour tells it.
    """

    coverage: np.ndarray
    color: RGB
    nouns: str


@dataclass(frozen=True)
class ForeignEdit:
    """Source and target as designs, the instruction, and the cells whose backdrop is another, bool (rows, columns).

    filled: of those the ones that show nothing but one new colour; colors: of the palette, what it replaces and itself.
    """

    source: Design
    target: Design
    prompt: str
    repainted: np.ndarray
    filled: np.ndarray
    colors: tuple[str, str] | None = None


def random_foreign_edit(rng: random.Random, words: list[str], grid: tuple[int, int]) -> ForeignEdit:
    """Draw a picture that is no design, and what is asked of it."""
    rows, columns = grid
    layers: list[Layer] = []
    if rng.random() < 0.08:  # anything at all
        from vae import random_shapes, random_texture

        side = max(grid)
        square = random_texture(rng, side * PX) if rng.random() < 0.5 else random_shapes(rng, side, PX)
        picture = np.ascontiguousarray(square[: rows * PX, : columns * PX])
    else:
        layers, shading = random_scene(rng, words, rows, columns), random_shading(rng, rows, columns)
        picture = paint_layers(layers, shading)
    source = Design(rows, columns, BLACK, BLACK, backdrop=picture)
    nothing = np.zeros(grid, bool)
    wish = rng.random()
    if wish < 0.05:
        return ForeignEdit(source, source, rng.choice(KEEP.split(";")), nothing, nothing)
    if wish < 0.11:
        target, prompt = _write_on(rng, words, source)
        return ForeignEdit(source, target, prompt, nothing, nothing)
    named = _name_a_layer(rng, words, layers, picture) if layers else None
    if wish < 0.2 or named is None:
        name = rng.choice(list(TREATMENTS))
        prompt = rng.choice(TREATMENT_WORDS[name].split(";"))
        target = replace(source, backdrop=TREATMENTS[name](picture))
        return ForeignEdit(source, target, prompt, ~nothing, nothing)
    which, phrase, old = named
    name = rng.choice([color for color in PALETTE if color != old])
    changed = [replace(layer, color=PALETTE[name]) if i == which else layer for i, layer in enumerate(layers)]
    shares = visible_shares(layers)[which]
    # Without light and grain: which of the tokens near a colour a shaded cell gets cannot be known from the source.
    target = replace(source, backdrop=paint_layers(changed, shading * (1 - shares[..., None])))
    shares = shares.reshape(rows, PX, columns, PX).mean((1, 3))
    prompt = say_colors(phrase, c=color_word(rng, name))
    return ForeignEdit(source, target, prompt, shares > 0.02, shares > 0.98, (old, name))


def _write_on(rng: random.Random, words: list[str], source: Design) -> tuple[Design, str]:
    rows, columns = source.num_rows, source.num_columns
    text = random_text(rng, words, columns - 2, rng.choice([1, 1, 2]))
    row_name = rng.choice(PLACES)
    row = {"top": 1, "middle": rows // 2 - 1, "bottom": rows - 3}[row_name]
    assert source.backdrop is not None
    band = source.backdrop[row * PX : (row + 2) * PX].reshape(-1, 3).mean(0)
    ink = "black" if luminance(tuple(band)) > LIGHT else "white"
    line = Line(text, row, (columns - len(text)) // 2, rng.choice(STYLES))
    where, style = rng.choice(PLACE_WORDS[row_name].split(";")), rng.choice(STYLE_WORDS[line.style].split(";"))
    prompt = rng.choice(WRITE.split(";")).format(q=quoted(rng, text)[0], w=where, s=style)
    return replace(source, lines=(line,), ink=ink), prompt


def _name_a_layer(
    rng: random.Random, words: list[str], layers: list[Layer], picture: np.ndarray
) -> tuple[int, str, str] | None:
    """Choose a layer that can be told from the others, if there is one.

    Returns its number, a phrase that names it ("{c}": the new colour), and the name of its colour as it is seen.
    """
    shares = visible_shares(layers)
    weights = shares.mean((1, 2))
    seen = np.einsum("lhw,hwc->lc", shares, picture) / picture[..., 0].size / np.maximum(weights, 1e-6)[:, None]
    visible = [i for i, weight in enumerate(weights) if weight > 0.015]
    apart = {i: min([np.abs(seen[i] - seen[j]).sum() for j in visible if j != i], default=1e9) for i in visible}
    choices = [i for i in visible if layers[i].nouns or apart[i] > TOLD_APART]
    if not choices:
        return None
    which = rng.choice(choices)
    old = nearest_color(tuple(seen[which]))
    if layers[which].nouns and (apart[which] <= TOLD_APART or rng.random() < 0.6):
        return which, rng.choice(NAMED.split(";")).replace("{n}", rng.choice(layers[which].nouns.split(";"))), old
    # the colour decides: what it is said to be is often wrong
    nouns = layers[which].nouns if layers[which].nouns and rng.random() < 0.5 else f"{THINGS};{other_word(rng, words)}"
    phrase = rng.choice(NAMED_BY_COLOR.split(";")).replace("{n}", rng.choice(nouns.split(";")))
    return which, phrase.replace("{o}", color_word(rng, old)), old


def _any_color(rng: random.Random) -> RGB:
    """Draw a colour near one of the palette, or any."""
    if rng.random() < 0.25:
        return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    r, g, b = (min(max(value + rng.randint(-25, 25), 0), 255) for value in PALETTE[rng.choice(list(PALETTE))])
    return (r, g, b)


def random_scene(rng: random.Random, words: list[str], rows: int, columns: int) -> list[Layer]:
    """Draw layers from back to front: a back, perhaps a ground and what stands on the horizon, an object, details."""
    horizon, has_ground = rng.uniform(0.45, 0.85), rng.random() < 0.65
    layers = [Layer(np.ones((rows * PX, columns * PX), np.float32), _any_color(rng), SKIES if has_ground else BACKS)]
    if has_ground and rng.random() < 0.25:
        layers.append(Layer(_below(rng, rows, columns, horizon - 0.15), _any_color(rng), MIDDLES))
    if has_ground:
        layers.append(Layer(_below(rng, rows, columns, horizon), _any_color(rng), GROUNDS))
    size = rng.uniform(0.2, 0.4) * min(rows, columns)
    y = rows * (horizon if has_ground else 0.5) - size * rng.uniform(0, 0.6)
    x = columns * rng.uniform(0.35, 0.65)
    parts = dict(rng.choice(PARTS))
    if rng.random() < 0.7:
        kind = rng.choice(["circle", "box", "box", "triangle", "star"])
        noun = rng.choice([rng.choice(THINGS.split(";")), other_word(rng, words)])
        parts = {noun: (kind, 0, 0, rng.uniform(0.5, 1), rng.uniform(0.5, 1))}
    for noun, (kind, down, right, high, wide) in parts.items():
        placed = Shape(kind, y + down * size, x + right * size, high * size, wide * size, WHITE)
        layers.append(Layer(_cover(rows, columns, placed), _any_color(rng), noun))
    for _ in range(rng.choice([0, 0, 1, 2])):
        detail = size * rng.uniform(0.15, 0.3)
        where = (y + size * rng.uniform(-1, 1), x + size * rng.uniform(-1.6, 1.6))
        placed = Shape(rng.choice(["circle", "box", "triangle"]), *where, detail, detail, WHITE)
        layers.append(Layer(_cover(rows, columns, placed), _any_color(rng), ""))
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
    return luminance(tuple(picture.astype(np.float32).transpose(2, 0, 1)))


def _sepia(picture: np.ndarray) -> np.ndarray:
    return np.clip(_grey(picture)[..., None] * np.float32([1.07, 0.92, 0.72]), 0, 255).astype(np.uint8)


TREATMENTS = {
    "invert": lambda picture: 255 - picture,
    "sepia": _sepia,
    "grey": lambda picture: np.repeat(_grey(picture)[..., None], 3, axis=2).astype(np.uint8),
    "darker": lambda picture: (picture * 0.55).astype(np.uint8),
    "lighter": lambda picture: (255 - (255 - picture) * 0.55).astype(np.uint8),
}
