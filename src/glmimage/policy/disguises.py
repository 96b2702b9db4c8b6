"""Read a text as people read it: through look-alike letters, digits, gaps, masks and repeats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

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
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"\S+")
_LETTER = re.compile(r"[^\W\d_]|[@$]")
_STAND_INS = re.compile(r"[0-9@$!|+€£(]")
_MASKED = re.compile(r"(?<![^\W_])[^\W\d_](?:[^\W\d_]|[*#])+[^\W\d_](?![^\W_])")
_REPEATS = re.compile(r"(\w)\1{2,}")


class Masked(NamedTuple):
    """Describe a word with hidden letters: `p..n` for p**n."""

    pattern: str
    length: int


def plain(text: str) -> str:
    """Return small letters without accents and invisible marks, words apart by one space."""
    return _spaced(unicodedata.normalize("NFC", _fold(text)))


def readings(text: str) -> Iterator[str]:
    """Yield the texts a reader may see, with one space between words; each once."""
    folded = _fold(text)
    latin = folded if folded.isascii() else folded.translate(_LOOK_ALIKES)
    spelled = _SPACED.sub(_join, latin)
    seen: set[str] = set()
    for reading in (
        folded if folded.isascii() else unicodedata.normalize("NFC", folded),
        latin,
        _letters_for_digits(latin),
        _JOINED.sub("", latin),
        spelled,
        _letters_for_digits(spelled),
        _REPEATS.sub(r"\1", latin),
        _REPEATS.sub(r"\1\1", latin),
    ):
        words = _spaced(reading)
        if words not in seen:
            seen.add(words)
            yield words


def masked_words(text: str) -> Iterator[Masked]:
    """Yield the words that begin and end with a letter and hide at most half of the others."""
    if "*" not in text and "#" not in text:
        return
    for word in dict.fromkeys(_MASKED.findall(text.casefold())):
        num_hidden = word.count("*") + word.count("#")
        if 4 <= len(word) <= 40 and 0 < num_hidden <= len(word) - num_hidden:
            yield Masked(re.sub("[*#]", "[a-z]", word), len(word))


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if c.isascii() or unicodedata.category(c) not in _INVISIBLE)


def _spaced(text: str) -> str:
    return " ".join(_WORD.findall(text))


def _join(match: re.Match[str]) -> str:
    return "".join(_WORD.findall(match[0]))


def _letters_for_digits(text: str) -> str:
    """Read 3 as e and @ as a in words that also have letters; 4 and 1024 stay numbers."""
    if _STAND_INS.search(text) is None:
        return text
    return _TOKEN.sub(_translated, text)


def _translated(match: re.Match[str]) -> str:
    token = match[0]
    if _STAND_INS.search(token) is None:
        return token
    word = token.strip(_EDGE)
    if _LETTER.search(word) is None:
        return token
    return word.translate(_DIGIT_LETTERS)
