"""`--verify-text` and `--best-of`: read what was painted, and choose by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..types import PictureReady

if TYPE_CHECKING:
    from ..evaluation.judge import Reads
    from ..evaluation.text_check import TextCheck


def load_reader() -> Reads:
    """Return what reads pictures; raise GlmImageError where it is missing."""
    from ..evaluation.reading import Reader

    return Reader()


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
