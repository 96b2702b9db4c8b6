"""Read a text as people read it: through look-alike letters, digits, gaps, masks and repeats."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

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
        "©": "c",
        "®": "r",
    }
)
_LATER_DIGIT_LETTERS = _DIGIT_LETTERS | {ord(one): "l" for one in "1!|"}
"""The digits that are drawn like two letters, read as the other one."""
# letters of other alphabets that are drawn like Latin ones (the common part of Unicode's list)
_CYRILLIC = dict(zip("аеорсухіјѕԁһԛѡьвкмнтгпибз", "aeopcyxijsdhqwbbkmhtrnube", strict=True))
_GREEK = dict(zip("οανερτυκιωηχγμσβδɑɡɩıə", "oaveptukiwnxymobdagiie", strict=True))
_ARMENIAN = dict(zip("օոսհցզ", "onuhgq", strict=True))
_LATIN = dict(zip("øđðłħŧɛɔŋƒɓɗɠɨɵʉɲɖɳʂʈʐ", "oddlhteonfbdgiounnnstz", strict=True)) | dict(
    zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True)
)
# letters in boxes and discs, and those that flags are made of, which NFKC leaves as they are
_FRAMED = {
    first + number: chr(ord("a") + number)
    for first in (0x1F150, 0x1F170, 0x1F1E6)
    for number in range(26)
}
_LOOK_ALIKES = str.maketrans(_CYRILLIC | _GREEK | _ARMENIAN | _LATIN) | _FRAMED
_INVISIBLE = {"Cf", "Mn", "Me"}
_FILLERS = "\u115f\u1160\u2800"  # Hangul's and Braille's letters that show nothing
_EDGE = " \t\n\"'“”‘’«»「」()[]{}<>.,;:?!…"
_GAP = r"[\W_]{1,8}"
_SPACED = re.compile(rf"(?<![^\W_])[^\W_](?:{_GAP}[^\W_](?![^\W_])){{2,}}")
_SPACED_ONCE = re.compile(r"(?<![^\W_])[^\W_](?:[\W_][^\W_](?![^\W_])){2,}")
_JOINED = re.compile(r"(?<=[^\W_])(?:[^\w\s]|_){1,8}(?=[^\W_])")
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"\S+")
_LETTER = re.compile(r"[^\W\d_]|[@$]")
_STAND_INS = re.compile(r"[0-9@$!|+€£(©®]")
_MASKED = re.compile(r"(?<![^\W_])[^\W\d_](?:[^\W\d_]|[*#])+[^\W\d_](?![^\W_])")
_REPEATS = re.compile(r"([^\W_])\1{2,}")
_ESCAPED = re.compile(r"&#?\w{1,8};|%[0-9A-Fa-f]{2}|\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})")
_BACKSLASH = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4}))")


class Masked(NamedTuple):
    """Describe a word with hidden letters: `p..n` for p**n."""

    pattern: str
    length: int


def plain(text: str) -> str:
    """Return small letters without accents and invisible marks, words apart by one space."""
    return _spaced(unicodedata.normalize("NFC", _fold(text)))


def readings(text: str) -> Iterator[str]:
    """Yield the texts a reader may see, with one space between words; each once."""
    seen: set[str] = set()
    for written in _unescaped(text):
        for reading in _read(_fold(written)):
            words = _spaced(reading)
            if words not in seen:
                seen.add(words)
                yield words


def _read(folded: str) -> Iterator[str]:
    """Yield readings of a folded text: each way to close gaps, with digits and repeats."""
    latin = folded
    if not folded.isascii():
        yield from _without_gaps(unicodedata.normalize("NFC", folded))
        latin = folded.translate(_LOOK_ALIKES)
    gapless = [*_without_gaps(latin)]
    if _STAND_INS.search(latin) is not None:
        # signs that stand for letters are no gaps between letters
        gapless += _without_gaps(latin.translate(_DIGIT_LETTERS))
    for text in dict.fromkeys(gapless):
        for letters in (_DIGIT_LETTERS, _LATER_DIGIT_LETTERS):
            translated = _letters_for_digits(text, letters)
            yield from (translated, _REPEATS.sub(r"\1", translated))
            yield _REPEATS.sub(r"\1\1", translated)
        yield from (text, _REPEATS.sub(r"\1", text))


def _without_gaps(text: str) -> Iterator[str]:
    """Yield the text, and what its letters say when the gaps between them are closed."""
    yield text
    yield _JOINED.sub("", text)
    for gaps in (_SPACED, _SPACED_ONCE):
        spelled = gaps.sub(_join, text)
        if spelled != text:
            yield from (spelled, gaps.sub(_join_but_first, text))


def _unescaped(text: str) -> Iterator[str]:
    """Yield the text, and what it says to a reader of HTML, of addresses or of programs."""
    yield text
    if _ESCAPED.search(text) is not None:
        decoded = _BACKSLASH.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
        yield unquote(html.unescape(decoded))


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
    return "".join(c for c in folded if c.isascii() or _shows(c))


def _shows(character: str) -> bool:
    return unicodedata.category(character) not in _INVISIBLE and character not in _FILLERS


def _spaced(text: str) -> str:
    return " ".join(_WORD.findall(text))


def _join(match: re.Match[str]) -> str:
    return "".join(_WORD.findall(match[0]))


def _join_but_first(match: re.Match[str]) -> str:
    first, *others = _WORD.findall(match[0])
    return f"{first} {''.join(others)}"


def _letters_for_digits(text: str, letters: dict[int, str]) -> str:
    """Read 3 as e and @ as a in words that also have letters; 4 and 1024 stay numbers."""
    if _STAND_INS.search(text) is None:
        return text

    def translated(match: re.Match[str]) -> str:
        token = match[0]
        if _STAND_INS.search(token) is None:
            return token
        word = token.strip(_EDGE)
        if _LETTER.search(word) is None:
            return token
        return word.translate(letters)

    return _TOKEN.sub(translated, text)
