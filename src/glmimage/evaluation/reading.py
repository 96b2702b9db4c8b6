"""Read the text of a picture with rapidocr (PP-OCR): lines and where they stand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import GlmImageError

READ_SIDE = 1024
"""px; text is looked for in pictures scaled down to this longer side, and read at full size."""


@dataclass(frozen=True)
class Line:
    """One line of type. box: left, top, right, bottom, px."""

    text: str
    box: tuple[float, float, float, float]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


class Reader:
    """Hold the detector and the recogniser; loading takes about a second."""

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise GlmImageError(
                f"Pictures cannot be read: {error}.",
                hint="Install the reader with: pip install 'glmimage[eval]'",
            ) from error
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        # Without limit_type=max the detector enlarges small pictures and crawls.
        options = {"Det.limit_type": "max", "Det.limit_side_len": READ_SIDE}
        self._engine: Any = RapidOCR(params=options | {"Global.log_level": "error"})

    def read(self, picture: Image.Image) -> tuple[Line, ...]:
        """Return the lines read, in the reader's order; `picture` is RGB."""
        found = self._engine(np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1]))
        if found.txts is None:
            return ()
        lines = []
        for text, corners in zip(found.txts, found.boxes, strict=True):
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            lines.append(Line(text, (float(left), float(top), float(right), float(bottom))))
        return tuple(lines)
