"""Draw the letters that `glmimage.evaluation.lettering` compares with, from installed fonts.

Needs Debian's fonts-liberation (OFL 1.1) and fonts-dejavu-core (Bitstream Vera licence). Run once:
the file is what is kept, so that a verdict does not depend on the fonts of a machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glmimage.evaluation import lettering

FONTS = Path("/usr/share/fonts/truetype")
FACES = {
    "sans": ("liberation/LiberationSans-{}", "dejavu/DejaVuSans{}"),
    "serif": ("liberation/LiberationSerif-{}", "dejavu/DejaVuSerif{}"),
    "mono": ("liberation/LiberationMono-{}", "dejavu/DejaVuSansMono{}"),
}
SIZE = 96  # px


def main() -> None:
    """Write letters.npz."""
    faces = [FACES[family] for family in lettering.FAMILIES]
    coverages = np.empty((len(faces), 2, 2, len(lettering.LETTERS)), object)
    for family, names in enumerate(faces):
        for face, name in enumerate(names):
            for weight, bold in enumerate((False, True)):
                font = ImageFont.truetype(FONTS / file_name(name, bold=bold), SIZE)
                for index, letter in enumerate(lettering.LETTERS):
                    coverages[family, face, weight, index] = draw_letter(font, letter)
    path = Path(lettering.__file__).with_name("letters.npz")
    np.savez_compressed(path, **lettering.pack_shapes(coverages))
    print(path, path.stat().st_size)


def file_name(name: str, *, bold: bool) -> str:
    """Return the file of a weight: the two typefaces name theirs differently."""
    plain = "Regular" if name.endswith("-{}") else ""
    return name.format(("-Bold" if not plain else "Bold") if bold else plain) + ".ttf"


def draw_letter(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """Return the coverage of a letter in 0..1, cut to its box."""
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE), 0)
    ImageDraw.Draw(canvas).text((SIZE // 2, SIZE // 2), letter, font=font, fill=255)
    return np.asarray(canvas.crop(canvas.getbbox()), np.float32) / 255


if __name__ == "__main__":
    main()
