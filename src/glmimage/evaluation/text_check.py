"""Is what the prompt has in quotes written in the picture? And which of several is the best?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import InvalidRequest
from ..quotes import get_glyph_texts
from ..types import MAX_IMAGES
from .judge import Reads
from .words import score_words


@dataclass(frozen=True)
class TextCheck:
    """Hold the words that were read and those that were not, as the prompt writes them.

    similarity: mean over the words of how near what was read comes (NED), 0 to 1. num_extra: words
    read that resemble none of these.
    """

    found: tuple[str, ...]
    missing: tuple[str, ...]
    similarity: float
    num_extra: int

    @property
    def accuracy(self) -> float:
        """Return the share of words that were read; 1 when there was none to read."""
        total = len(self.found) + len(self.missing)
        return len(self.found) / total if total else 1.0

    def as_document(self) -> dict[str, Any]:
        """Return what a result tells of it."""
        return {
            "found": list(self.found),
            "missing": list(self.missing),
            "accuracy": round(self.accuracy, 4),
            "similarity": round(self.similarity, 4),
        }


def check_text(picture: Image.Image, prompt: str, reader: Reads) -> TextCheck:
    """Read a picture and compare it with the quoted words of its prompt."""
    texts = get_glyph_texts(prompt)
    words = " ".join(texts).split()
    scores = score_words(texts, reader.read(picture) if words else ())
    verdicts = list(zip(words, scores.found, strict=True))
    return TextCheck(
        found=tuple(word for word, found in verdicts if found),
        missing=tuple(word for word, found in verdicts if not found),
        similarity=sum(scores.ned) / len(words) if words else 1.0,
        num_extra=scores.extra,
    )


def choose_best(checks: Sequence[TextCheck], number: int) -> list[int]:
    """Return the indices of the `number` best, the best first; of equals the earlier ones.

    Most words found counts first, then how near the words come, then the fewest words too many.
    """

    def rank(index: int) -> tuple[float, float, int, int]:
        check = checks[index]
        return (-check.accuracy, -check.similarity, check.num_extra, index)

    return sorted(range(len(checks)), key=rank)[:number]


def check_choice(prompt: str, num_images: int, best_of: int, name: str = "best_of") -> None:
    """Raise InvalidRequest when there is nothing to read, or nothing to choose from.

    name: what the caller knows `best_of` as.
    """
    if not 1 <= best_of <= MAX_IMAGES:
        raise InvalidRequest(
            f"{name} is {best_of}; it must be between 1 and {MAX_IMAGES}.", field="best_of"
        )
    if 1 < best_of < num_images:
        raise InvalidRequest(
            f"{name} is {best_of}, and {num_images} pictures are wanted; it must be as many or "
            "more.",
            field="best_of",
        )
    if not any(text.split() for text in get_glyph_texts(prompt)):
        raise InvalidRequest(
            "The prompt has no words in quotes to look for.",
            hint="Put the words that should be written in the picture in quotes.",
        )
