"""Word accuracy and NED of arrays, by the package's own judge."""

import functools
from collections.abc import Iterable

import numpy as np
from PIL import Image

from glmimage.evaluation.reading import Reader
from glmimage.evaluation.words import edit_distance, score_words

__all__ = ["edit_distance", "score"]


@functools.cache
def _reader() -> Reader:
    return Reader()


def score(picture: np.ndarray, texts: Iterable[str]) -> tuple[list[bool], list[float]]:
    """Return, for every wanted word, whether it was read and its NED; picture uint8 RGB (H, W, 3)."""
    scores = score_words(list(texts), _reader().read(Image.fromarray(picture)))
    return list(scores.found), list(scores.ned)
