"""Word accuracy and NED of pictures, as CVTG-2K defines them, read by rapidocr."""

import functools
import logging
from collections.abc import Iterable

import numpy as np


@functools.cache
def _reader():
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    # Without limit_type=max the detector enlarges small pictures and crawls.
    return RapidOCR(params={"Det.limit_type": "max", "Global.log_level": "error"})


def read_words(picture: np.ndarray) -> set[str]:
    """Return the lower-cased words read in a picture, uint8 RGB (H, W, 3)."""
    lines = _reader()(np.ascontiguousarray(picture[:, :, ::-1])).txts or ()
    return {word for line in lines for word in line.lower().split()}


def edit_distance(a: str, b: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, previous = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def score(picture: np.ndarray, texts: Iterable[str]) -> tuple[list[bool], list[float]]:
    """Return, for every wanted word, whether it was read and its NED (1 is a perfect match)."""
    read = read_words(picture)
    wanted = " ".join(texts).lower().split()
    found = [word in read for word in wanted]
    similarity = [max((1 - edit_distance(w, r) / max(len(w), len(r)) for r in read), default=0.0) for w in wanted]
    return found, similarity
