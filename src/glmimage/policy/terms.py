"""The list of terms: read from its file, found in a text in one pass over the words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import InvalidSettings
from . import disguises

MAX_WORDS_BETWEEN = 5
"""of two groups joined by ~; the explanation in the file says so too."""
_STEM = 3  # letters that a stem has at least
_NO_SPACES = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # Thai, Japanese, Chinese
_HARMLESS = -1


@dataclass(frozen=True)
class Rule:
    """Hold one line of the file. groups: numbers of the groups that must all be found."""

    kind: str
    groups: tuple[int, ...]
    close_by: bool


@dataclass(frozen=True)
class _Phrase:
    words: tuple[str, ...]
    is_stem: bool
    group: int
    text: str


class Terms:
    """Find rules in texts whose words are apart by one space, as `disguises.readings` yields them.

    Raise InvalidSettings for a line that is not understood. source: how a fault names the file.
    """

    def __init__(self, text: str, source: str) -> None:
        self.rules: list[Rule] = []
        self.single_words: dict[str, Rule] = {}
        self._phrases: dict[str, list[_Phrase]] = defaultdict(list)  # by first word
        self._stems: dict[str, list[_Phrase]] = defaultdict(list)  # by first letters
        self._substrings: list[_Phrase] = []
        self._source = source
        self._num_groups = 0
        self._read(text)

    def find(self, text: str) -> tuple[Rule, str] | None:
        """Return the first rule that the text breaks, and the words it does so with."""
        words = text.split()
        found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        for phrase, start in self._matches(words):
            found[phrase.group].append((start, start + len(phrase.words), phrase.text))
        harmless = {i for start, end, _ in found.pop(_HARMLESS, ()) for i in range(start, end)}
        if harmless:
            for group, spans in found.items():
                found[group] = [one for one in spans if harmless.isdisjoint(range(one[0], one[1]))]
        if _NO_SPACES.search(text):
            for phrase in self._substrings:
                if phrase.text in text:
                    # written without spaces, it has no place among the words
                    found[phrase.group].append((0, len(words), phrase.text))
        for rule in self.rules:
            groups = [found.get(group, []) for group in rule.groups]
            if all(groups) and (not rule.close_by or _are_close(groups[0], groups[1])):
                return rule, ", ".join(group[0][2] for group in groups)
        return None

    def _matches(self, words: Sequence[str]) -> Iterator[tuple[_Phrase, int]]:
        for start, word in enumerate(words):
            for phrase in self._phrases.get(word, ()):
                if _continues(phrase, words, start):
                    yield phrase, start
            for phrase in self._stems.get(word[:_STEM], ()):
                if word.startswith(phrase.words[0]):
                    yield phrase, start

    def _read(self, text: str) -> None:
        kind = ""
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.partition("#")[0].strip()
            if not line:
                continue
            if line.startswith("["):
                kind = line[1:].removesuffix("]").strip()
                if not line.endswith("]") or not re.fullmatch(r"[a-z][a-z0-9_-]*", kind):
                    raise self._fault(number, "a kind is written [name], in small letters")
            elif line.startswith("!"):
                self._add_group(line[1:], _HARMLESS, number)
            elif not kind:
                raise self._fault(number, "a [kind] must stand before the first term")
            else:
                self._add_rule(kind, line, number)

    def _add_rule(self, kind: str, line: str, number: int) -> None:
        parts = re.split(r"[+~]", line)
        if "~" in line and len(parts) != 2:
            raise self._fault(number, "~ stands once, between two groups")
        groups = range(self._num_groups, self._num_groups + len(parts))
        self._num_groups += len(parts)
        rule = Rule(kind, tuple(groups), "~" in line)
        self.rules.append(rule)
        for part, group in zip(parts, groups, strict=True):
            phrases = self._add_group(part, group, number)
            if len(parts) == 1:
                for phrase in phrases:
                    if len(phrase.words) == 1 and phrase.text.isascii() and not phrase.is_stem:
                        self.single_words.setdefault(phrase.text, rule)

    def _add_group(self, text: str, group: int, number: int) -> list[_Phrase]:
        phrases = []
        for part in text.split(","):
            is_stem = part.strip().endswith("*")
            words = tuple(disguises.plain(part.strip().removesuffix("*")).split())
            if not words or (is_stem and len(words[-1]) < _STEM):
                raise self._fault(number, "a term is missing, or shorter than three letters and *")
            phrases.append(_Phrase(words, is_stem, group, " ".join(words)))
        for phrase in phrases:
            if _NO_SPACES.search(phrase.text):
                self._substrings.append(phrase)
            elif phrase.is_stem and len(phrase.words) == 1:
                self._stems[phrase.text[:_STEM]].append(phrase)
            else:
                self._phrases[phrase.words[0]].append(phrase)
        return phrases

    def _fault(self, number: int, reason: str) -> InvalidSettings:
        return InvalidSettings(f"Line {number} of {self._source} is not understood: {reason}.")


def _continues(phrase: _Phrase, words: Sequence[str], start: int) -> bool:
    end = start + len(phrase.words)
    if end > len(words):
        return False
    if not phrase.is_stem:
        return tuple(words[start:end]) == phrase.words
    same = tuple(words[start : end - 1]) == phrase.words[:-1]
    return same and words[end - 1].startswith(phrase.words[-1])


def _are_close(
    first: Sequence[tuple[int, int, str]], second: Sequence[tuple[int, int, str]]
) -> bool:
    return any(
        0 <= b_start - a_end <= MAX_WORDS_BETWEEN or 0 <= a_start - b_end <= MAX_WORDS_BETWEEN
        for a_start, a_end, _ in first
        for b_start, b_end, _ in second
    )
