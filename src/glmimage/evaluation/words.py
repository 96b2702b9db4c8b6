"""Compare the words read with the words asked for, as CVTG-2K defines it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .reading import Line

BELONGS = 0.6
"""Similarity from which a line is taken for a part of a string."""


@dataclass(frozen=True)
class WordScores:
    """Hold, for every wanted word, whether it was read and how near the nearest word came (NED).

    ned: 1 is a perfect match, as in CVTG-2K. exact: for every string, whether its letters were
    read in order, spaces and case aside. extra: words read that resemble no wanted one.
    """

    found: tuple[bool, ...]
    ned: tuple[float, ...]
    exact: tuple[bool, ...]
    extra: int


def edit_distance(a: str, b: str, *, inside: bool = False) -> int:
    """Return the Levenshtein distance, or with `inside` that of `a` to the nearest part of `b`."""
    row = [0] * (len(b) + 1) if inside else list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, previous = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return min(row) if inside else row[-1]


def similarity(a: str, b: str) -> float:
    """Return 1 - distance / longer length: 1 is equal."""
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def split_words(texts: Iterable[str]) -> list[str]:
    """Return the lower-cased words; typographic quotes count as the plain ones."""
    plain = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
    return " ".join(texts).lower().translate(plain).split()


def score_words(texts: Sequence[str], lines: Sequence[Line]) -> WordScores:
    """Compare the strings asked for with the lines read."""
    read = set(split_words(line.text for line in lines))
    wanted = split_words(texts)
    ned = [max((similarity(word, other) for other in read), default=0.0) for word in wanted]
    extra = [all(similarity(word, other) < 0.5 for word in wanted) for other in read]
    assigned = assign_lines(texts, lines)
    exact = [
        _letters(text) == _letters("".join(line.text for line in own))
        for text, own in zip(texts, assigned, strict=True)
    ]
    return WordScores(tuple(word in read for word in wanted), tuple(ned), tuple(exact), sum(extra))


def assign_lines(texts: Sequence[str], lines: Sequence[Line]) -> list[list[Line]]:
    """Return for each string the lines that are a part of it, from top to bottom, left to right."""
    assigned: list[list[Line]] = [[] for _ in texts]
    for line in lines:
        scores = [_belongs(line.text, text) for text in texts]
        best = max(scores, default=0.0)
        if best >= BELONGS:
            assigned[scores.index(best)].append(line)
    return [_in_reading_order(own) for own in assigned]


def _belongs(line: str, text: str) -> float:
    """Return how much of the shorter is found in the longer; a little more when as long."""
    shorter, longer = sorted((_letters(line), _letters(text)), key=len)
    if not shorter:
        return 0.0
    if len(shorter) == 1 and not set(split_words([line])) & set(split_words([text])):
        return 0.0  # a circle is read as an O: a letter alone must be a word of the text
    part = 1 - edit_distance(shorter, longer, inside=True) / len(shorter)
    return part + 0.1 * part * len(shorter) / len(longer)


def _in_reading_order(lines: list[Line]) -> list[Line]:
    ordered: list[list[Line]] = []
    for line in sorted(lines, key=lambda one: one.box[1] + one.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        if ordered and middle < ordered[-1][0].box[3]:
            ordered[-1].append(line)
        else:
            ordered.append([line])
    return [line for row in ordered for line in sorted(row, key=lambda one: one.box[0])]


def _letters(text: str) -> str:
    return "".join(split_words([text]))
