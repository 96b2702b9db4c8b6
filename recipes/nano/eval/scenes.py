"""Paint simple scenes that behave like photographs: shading, soft edges, grain; colours of parts can be chosen."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
SIDE = 512


@dataclass(frozen=True)
class Part:
    """A form with its colour. box: where the scene shows nothing but this part, 0..1."""

    kind: str
    xy: tuple[float, ...]
    color: RGB
    box: tuple[float, float, float, float]


SCENES: dict[str, dict[str, Part]] = {
    "hills": {
        "sky": Part("box", (0, 0, 1, 1), (120, 180, 230), (0.05, 0.05, 0.6, 0.35)),
        "sun": Part("ellipse", (0.72, 0.1, 0.88, 0.26), (250, 230, 120), (0.76, 0.14, 0.84, 0.22)),
        "hills": Part(
            "polygon", (0, 0.6, 0.3, 0.45, 0.6, 0.62, 1, 0.5, 1, 1, 0, 1), (60, 130, 60), (0.1, 0.7, 0.9, 0.95)
        ),
    },
    "car": {
        "wall": Part("box", (0, 0, 1, 1), (225, 220, 210), (0.05, 0.05, 0.95, 0.3)),
        "road": Part("box", (0, 0.72, 1, 1), (105, 108, 112), (0.05, 0.88, 0.95, 0.98)),
        "roof": Part("polygon", (0.3, 0.55, 0.38, 0.4, 0.64, 0.4, 0.74, 0.55), (40, 45, 55), (0.42, 0.44, 0.6, 0.52)),
        "body": Part("box", (0.14, 0.54, 0.88, 0.72), (200, 30, 35), (0.2, 0.57, 0.82, 0.66)),
        "wheels": Part(
            "ellipses", (0.22, 0.66, 0.36, 0.8, 0.66, 0.66, 0.8, 0.8), (25, 25, 28), (0.26, 0.7, 0.32, 0.76)
        ),
    },
    "mug": {
        "wall": Part("box", (0, 0, 1, 1), (200, 205, 212), (0.05, 0.05, 0.95, 0.2)),
        "table": Part("box", (0, 0.7, 1, 1), (122, 80, 48), (0.05, 0.86, 0.95, 0.98)),
        "handle": Part("ellipse", (0.58, 0.4, 0.8, 0.66), (140, 145, 150), (0.71, 0.5, 0.75, 0.56)),
        "mug": Part("box", (0.3, 0.32, 0.66, 0.8), (245, 245, 243), (0.36, 0.42, 0.6, 0.72)),
    },
    "flower": {
        "meadow": Part("box", (0, 0, 1, 1), (52, 120, 50), (0.03, 0.03, 0.3, 0.2)),
        "stem": Part("box", (0.48, 0.5, 0.52, 1), (120, 160, 60), (0.485, 0.85, 0.515, 0.97)),
        "petals": Part(
            "ellipses",
            (0.3, 0.15, 0.7, 0.4, 0.3, 0.42, 0.7, 0.66, 0.2, 0.25, 0.45, 0.56, 0.55, 0.25, 0.8, 0.56),
            (240, 130, 175),
            (0.4, 0.18, 0.6, 0.27),
        ),
        "middle": Part("ellipse", (0.42, 0.33, 0.58, 0.49), (120, 70, 35), (0.46, 0.37, 0.54, 0.45)),
    },
    "house": {
        "sky": Part("box", (0, 0, 1, 1), (150, 195, 235), (0.03, 0.03, 0.97, 0.12)),
        "lawn": Part("box", (0, 0.78, 1, 1), (70, 140, 60), (0.05, 0.85, 0.95, 0.97)),
        "wall": Part("box", (0.25, 0.45, 0.75, 0.82), (240, 235, 222), (0.3, 0.5, 0.42, 0.75)),
        "roof": Part("polygon", (0.18, 0.47, 0.5, 0.18, 0.82, 0.47), (190, 40, 40), (0.4, 0.35, 0.6, 0.44)),
        "door": Part("box", (0.46, 0.6, 0.56, 0.82), (90, 55, 30), (0.48, 0.65, 0.54, 0.78)),
    },
    "balloon": {
        "sky": Part("box", (0, 0, 1, 1), (245, 200, 150), (0.03, 0.03, 0.25, 0.3)),
        "sea": Part("box", (0, 0.8, 1, 1), (30, 90, 130), (0.05, 0.85, 0.95, 0.97)),
        "basket": Part("box", (0.46, 0.62, 0.56, 0.7), (100, 65, 35), (0.48, 0.64, 0.54, 0.68)),
        "balloon": Part("ellipse", (0.3, 0.12, 0.72, 0.58), (40, 100, 210), (0.42, 0.25, 0.6, 0.45)),
    },
}


def paint_scene(name: str, seed: int, **colors: RGB) -> Image.Image:
    """Paint a scene with some parts in other colours; the same seed gives the same grain."""
    picture = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    pen = ImageDraw.Draw(picture)
    for part_name, part in SCENES[name].items():
        color = colors.get(part_name, part.color)
        xy = [2 * SIDE * value for value in part.xy]
        if part.kind == "polygon":
            pen.polygon(xy, fill=color)
        elif part.kind == "box":
            pen.rectangle(xy, fill=color)
        else:
            for i in range(0, len(xy), 4):
                pen.ellipse(xy[i : i + 4], fill=color)
    picture = picture.filter(ImageFilter.GaussianBlur(3)).resize((SIDE, SIDE), Image.Resampling.BOX)
    rng = np.random.default_rng(seed)
    shade = 1.04 - 0.12 * np.linspace(0, 1, SIDE)[:, None] * np.linspace(0.4, 1, SIDE)[None, :]
    coarse = Image.fromarray(rng.normal(0, 1, (16, 16)).astype(np.float32)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    light = (shade + 0.02 * np.asarray(coarse))[..., None]
    grain = rng.normal(0, 2, (SIDE, SIDE, 1))
    pixels = np.asarray(picture, np.float32) * light + grain
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))
