"""Read a text as people read it: through look-alike letters, digits, gaps, masks and repeats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_DIGIT_LETTERS = str.maketrans(
    {
        "0": "o",
        "1": "i",
        "3": "e",
        "4": "a",
        "5": "s",
        "6": "g",
        "7": "t",
        "8": "b",
        "9": "g",
        "@": "a",
        "$": "s",
        "!": "i",
        "|": "i",
        "+": "t",
        "€": "e",
        "£": "l",
        "(": "c",
    }
)
# letters of other alphabets that are drawn like Latin ones (the common part of Unicode's list)
_CYRILLIC = dict(zip("аеорсухіјѕԁһԛѡьвкмнтгпибз", "aeopcyxijsdhqwbbkmhtrnube", strict=True))
_GREEK = dict(zip("οανερτυκιωηχγμσβδɑɡɩıə", "oaveptukiwnxymobdagiie", strict=True))
_LOOK_ALIKES = str.maketrans(_CYRILLIC | _GREEK)
_INVISIBLE = {"Cf", "Mn", "Me"}
_EDGE = " \t\n\"'“”‘’«»「」()[]{}<>.,;:?!…"
_SPACED = re.compile(r"(?<!\w)\w(?:[\s.\-_*|/~·•]{1,3}\w(?!\w)){2,}")
_JOINED = re.compile(r"(?<=\w)[.\-_*|/~·•'`^](?=\w)")
_REPEATS = re.compile(r"(\w)\1{2,}")


def plain(text: str) -> str:
    """Return small letters without accents and invisible marks, words apart by one space."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) not in _INVISIBLE)
    return " ".join(re.sub(r"[^\w]|_", " ", unicodedata.normalize("NFC", kept)).split())


def readings(text: str) -> Iterator[str]:
    """Yield the texts a reader may see, each with one space before and after every word."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    folded = "".join(c for c in folded if unicodedata.category(c) not in _INVISIBLE)
    seen: set[str] = set()
    latin = _latin(folded)
    spelled = _SPACED.sub(lambda match: re.sub(r"\W|_", "", match[0]), latin)
    for reading in (
        folded,
        latin,
        _letters_for_digits(latin),
        _JOINED.sub("", latin),
        spelled,
        _letters_for_digits(spelled),
        _REPEATS.sub(r"\1", latin),
        _REPEATS.sub(r"\1\1", latin),
    ):
        words = f" {plain(reading)} "
        if words not in seen:
            seen.add(words)
            yield words


def masked_words(text: str) -> Iterator[str]:
    """Yield a pattern for each word with hidden letters, such as `p..n` for `p**n`."""
    for token in text.casefold().split():
        word = token.strip(_EDGE)
        hidden = sum(c in "*#" for c in word)
        letters = [c for c in word if c not in "*#"]
        if 0 < hidden <= len(letters) and len(word) >= 4:
            if word[0].isalpha() and word[-1].isalpha() and "".join(letters).isalpha():
                yield "".join("[a-z]" if c in "*#" else c for c in word)


def _latin(text: str) -> str:
    return text.translate(_LOOK_ALIKES)


def _letters_for_digits(text: str) -> str:
    """Read 3 as e and @ as a in words that also have letters; 4 and 1024 stay numbers."""
    words = []
    for token in text.split():
        word = token.strip(_EDGE)
        if any(c.isalpha() for c in word) or any(c in "@$" for c in word):
            word = word.translate(_DIGIT_LETTERS)
        words.append(word)
    return " ".join(words)
