"""`--verify-text` and `--best-of`: read what was painted, and choose by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidRequest
from ..quotes import get_glyph_texts
from ..types import MAX_IMAGES, PictureReady

if TYPE_CHECKING:
    from ..evaluation.judge import Reads
    from ..evaluation.text_check import TextCheck


def load_reader() -> Reads:
    """Return what reads pictures; raise GlmImageError where it is missing."""
    from ..evaluation.reading import Reader

    return Reader()


def check_wish(prompt: str, num_images: int, best_of: int) -> None:
    """Raise InvalidRequest for what cannot be read or chosen."""
    if not 1 <= best_of <= MAX_IMAGES:
        raise InvalidRequest(
            f"--best-of is {best_of}; it must be between 1 and {MAX_IMAGES}.", field="best_of"
        )
    if 1 < best_of < num_images:
        raise InvalidRequest(
            f"--best-of is {best_of}, and --num-images {num_images}; it must be as many or more.",
            field="best_of",
        )
    if not any(text.split() for text in get_glyph_texts(prompt)):
        raise InvalidRequest(
            "The prompt has no words in quotes to look for.",
            hint="Put the words that should be written in the picture in quotes.",
        )


def choose(
    pictures: Sequence[PictureReady], prompt: str, reader: Reads, number: int
) -> tuple[list[PictureReady], list[TextCheck]]:
    """Return the `number` best pictures, when there are more, and what was read in each."""
    from ..evaluation.text_check import check_text, choose_best

    checks = [check_text(picture.image, prompt, reader) for picture in pictures]
    kept = choose_best(checks, number) if number < len(pictures) else range(number)
    return [pictures[index] for index in kept], [checks[index] for index in kept]


def sentence(check: TextCheck) -> str:
    """Say which words were found and which are missing."""
    found = f"found: {' '.join(check.found)}" if check.found else "found none of its words"
    return f"{found}; missing: {' '.join(check.missing)}" if check.missing else found
