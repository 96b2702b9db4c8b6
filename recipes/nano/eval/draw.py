"""Draw what a set of prompts asks for, so that the judge itself can be measured.

python draw.py held_out.json DIR && glmimage eval text held_out.json --pictures DIR

Free proportional type in two typefaces a family, with small shapes, frames and noise; it shares no code with the
renderer that nano learns from. Needs Debian's fonts-liberation and fonts-dejavu-core; with --other, typefaces that the
judge has not seen: fonts-lato fonts-open-sans fonts-vollkorn fonts-roboto-slab fonts-jetbrains-mono fonts-firacode.
"""

import argparse
import functools
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glmimage.evaluation.colours import PALETTE, is_colour, plain_name, to_lab
from glmimage.evaluation.rows import Row, load_rows

FACES = {
    ("sans", "regular"): ("LiberationSans-Regular.ttf", "DejaVuSans.ttf"),
    ("sans", "bold"): ("LiberationSans-Bold.ttf", "DejaVuSans-Bold.ttf"),
    ("serif", "regular"): ("LiberationSerif-Regular.ttf", "DejaVuSerif.ttf"),
    ("serif", "bold"): ("LiberationSerif-Bold.ttf", "DejaVuSerif-Bold.ttf"),
    ("mono", "regular"): ("LiberationMono-Regular.ttf", "DejaVuSansMono.ttf"),
    ("mono", "bold"): ("LiberationMono-Bold.ttf", "DejaVuSansMono-Bold.ttf"),
}
OTHER_FACES = {
    ("sans", "regular"): ("Lato-Regular.ttf", "OpenSans-Regular.ttf"),
    ("sans", "bold"): ("Lato-Bold.ttf", "OpenSans-Bold.ttf"),
    ("serif", "regular"): ("Vollkorn-Regular.ttf", "RobotoSlab-Regular.otf"),
    ("serif", "bold"): ("Vollkorn-Bold.ttf", "RobotoSlab-Bold.otf"),
    ("mono", "regular"): ("JetBrainsMono-Regular.ttf", "FiraCode-Regular.ttf"),
    ("mono", "bold"): ("JetBrainsMono-Bold.ttf", "FiraCode-Bold.ttf"),
}
CENTRES = {"top": 1 / 6, "middle": 1 / 2, "bottom": 5 / 6}
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Text:
    """A line of type. x, y: of its anchor (left, center or right; middle), 0..1. size: of the shorter side."""

    text: str
    x: float
    y: float
    size: float
    color: RGB
    align: str = "center"
    face: str = "LiberationSans-Bold.ttf"
    string: int = 0


@dataclass(frozen=True)
class Shape:
    """A filled ellipse or box, or a frame along the edges. box: left, top, right, bottom, 0..1."""

    kind: str
    box: tuple[float, float, float, float]
    color: RGB


@dataclass(frozen=True)
class Design:
    """A picture told in words. bottom: the lower colour of a gradient."""

    width: int
    height: int
    background: RGB
    bottom: RGB | None = None
    texts: tuple[Text, ...] = ()
    shapes: tuple[Shape, ...] = field(default=())


@functools.cache
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Find a font among the installed ones."""
    for root in (Path("/usr/share/fonts"), Path.home() / ".local/share/fonts"):
        for path in root.rglob(name):
            return ImageFont.truetype(path, size)
    raise SystemExit(f"font {name} not found: apt-get install fonts-liberation fonts-dejavu-core")


def draw(design: Design) -> Image.Image:
    """Draw a design at twice its size and scale it down."""
    width, height = design.width, design.height
    picture = Image.new("RGB", (width, height), design.background)
    if design.bottom:
        ramp = np.linspace(0, 1, height)[:, None, None]
        rows = np.float32(design.background) * (1 - ramp) + np.float32(design.bottom) * ramp
        picture = Image.fromarray(rows.repeat(width, 1).round().astype(np.uint8))
    picture = picture.resize((2 * width, 2 * height))
    pen = ImageDraw.Draw(picture)
    for shape in design.shapes:
        box = [round(2 * part * side) for part, side in zip(shape.box, (width, height) * 2, strict=True)]
        if shape.kind == "circle":
            pen.ellipse(box, fill=shape.color)
        elif shape.kind == "frame":
            pen.rectangle(box, outline=shape.color, width=round(0.05 * min(width, height)))
        else:
            pen.rectangle(box, fill=shape.color)
    for text in design.texts:
        font = load_font(text.face, round(2 * text.size * min(width, height)))
        anchor = {"left": "lm", "center": "mm", "right": "rm"}[text.align]
        pen.text((2 * text.x * width, 2 * text.y * height), text.text, font=font, fill=text.color, anchor=anchor)
    return picture.resize((width, height), Image.Resampling.BOX)


def text_box(design: Design, string: int) -> tuple[float, float, float, float]:
    """Return the box of a string, left, top, right, bottom, 0..1."""
    boxes = []
    for text in design.texts:
        if text.string == string:
            font = load_font(text.face, round(text.size * min(design.width, design.height)))
            anchor = {"left": "lm", "center": "mm", "right": "rm"}[text.align]
            xy = (text.x * design.width, text.y * design.height)
            boxes.append(font.getbbox(text.text, anchor=anchor))
            boxes[-1] = tuple(b + o for b, o in zip(boxes[-1], xy * 2, strict=True))
    left, top, right, bottom = zip(*boxes, strict=True)
    sides = (min(left) / design.width, min(top) / design.height, max(right) / design.width, max(bottom) / design.height)
    return tuple(round(side, 4) for side in sides)


def pick_colour(rng: random.Random, name: str) -> RGB:
    """Return a colour that people call by the name: one of the judge's patches, a little off."""
    while True:
        code = rng.choice(PALETTE[plain_name(name)])
        rgb = [int(code[i : i + 2], 16) + rng.randint(-8, 8) for i in (1, 3, 5)]
        rgb = tuple(min(255, max(0, value)) for value in rgb)
        if is_colour(to_lab(np.array(rgb)), name):
            return rgb


def ink_for(color: RGB) -> RGB:
    """Return white or black, whichever reads better."""
    return (17, 17, 17) if to_lab(np.array(color))[0] > 60 else (255, 255, 255)


def set_string(text: str, number: int, size: float, most: float, face: str, sides: tuple[int, int]):
    """Break a string into lines that fit `most` of the width; return them with their size."""
    width, height = sides
    words, shorter = text.split(), min(sides)
    for num_lines in range(1, len(words) + 1):
        for attempt in (size, size * 0.85, size * 0.7, size * 0.55):
            font = load_font(face, round(attempt * shorter))
            lines = [""]
            for word in words:
                longer = f"{lines[-1]} {word}".strip()
                fits = font.getlength(longer) <= most * width
                lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
            widest = max(font.getlength(line) for line in lines)
            if len(lines) <= num_lines and widest <= most * width and len(lines) * attempt * shorter < 0.26 * height:
                return lines, attempt
    longest = max(load_font(face, 100).getlength(word) for word in words) / 100
    return ([text], most * width / shorter / longest) if len(words) == 1 else ([text], 0.035)


def place(positions: list[str | None]) -> list[float]:
    """Return the middle of each string, from top to bottom as far as the prompt leaves it open."""
    known = [CENTRES[p] if p else None for p in positions]
    if not any(known):
        return {1: [0.5], 2: [0.4, 0.68], 3: [0.22, 0.5, 0.8]}[len(known)]
    middles = []
    for i, value in enumerate(known):
        before = middles[-1] if middles else 0.0
        after = next((v for v in known[i + 1 :] if v), 1.0)
        middles.append(value if value else (before + after) / 2 if before < after else before - 0.25)
    return middles


def design_of(row: Row, faces=FACES) -> Design:
    """Return a design that obeys a row; what it leaves open is drawn by the row's seed."""
    rng = random.Random(row.seed)
    asked = row.asked
    ends = asked.gradient or (asked.background, None)
    background = pick_colour(rng, ends[0] or rng.choice(list(PALETTE)))
    bottom = pick_colour(rng, ends[1]) if ends[1] else None
    ink = pick_colour(rng, asked.text_color) if asked.text_color else ink_for(background)
    if bottom and not asked.text_color:
        ink = ink_for(tuple((a + b) // 2 for a, b in zip(background, bottom, strict=True)))
    family = asked.style or rng.choice(["sans", "serif", "mono"])
    face = rng.choice(faces[family, asked.weight or rng.choice(["regular", "bold"])])
    align = asked.alignment or rng.choice(["left", "center", "center", "right"])
    positions = [*asked.positions, *[None] * len(row.texts)][: len(row.texts)]
    texts = []
    for i, (text, middle) in enumerate(zip(row.texts, place(positions), strict=True)):
        size = rng.uniform(0.1, 0.15) if i == 0 else rng.uniform(0.055, 0.075)
        lines, size = set_string(text, i, size, 0.84, face, (row.width, row.height))
        pitch = 1.15 * size * min(row.width, row.height) / row.height
        for j, line in enumerate(lines):
            y = middle + (j - (len(lines) - 1) / 2) * pitch
            texts.append(Text(line, {"left": 0.07, "center": 0.5, "right": 0.93}[align], y, size, ink, align, face, i))
    shapes = decorate(rng, background, bottom, asked.gradient is not None)
    return Design(row.width, row.height, background, bottom, tuple(texts), shapes)


def decorate(rng: random.Random, background: RGB, bottom: RGB | None, is_gradient: bool) -> tuple[Shape, ...]:
    """Add what must not disturb the judge: a frame, a stripe or a circle near the edge."""
    color = pick_colour(rng, rng.choice(list(PALETTE)))
    kind = rng.choice(["", "", "frame", "stripe", "circle"])
    if not kind or is_gradient:
        return ()
    if kind == "frame":
        return (Shape("frame", (0.015, 0.015, 0.985, 0.985), color),)
    if kind == "stripe":
        y = rng.choice([0.02, 0.93])
        return (Shape("box", (0.0, y, 1.0, y + 0.03), color),)
    return (Shape("circle", (0.86, 0.86, 0.97, 0.97), color),)


def add_noise(picture: Image.Image, seed: int) -> Image.Image:
    """Add what a decoder leaves: a little noise, sigma 2."""
    noise = np.random.default_rng(seed).normal(0, 2, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).round().astype(np.uint8))


def main() -> None:
    """Draw every row of a set, named by its id."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--other", action="store_true", help="typefaces that the judge has not seen")
    parser.add_argument("--first", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for row in load_rows(args.set)[: args.first]:
        design = design_of(row, OTHER_FACES if args.other else FACES)
        add_noise(draw(design), row.seed).save(args.out / f"{row.id}.png", compress_level=1)


if __name__ == "__main__":
    main()
