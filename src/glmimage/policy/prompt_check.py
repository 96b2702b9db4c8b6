"""Does a prompt ask for a picture that is not painted? Read the terms, look through disguises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..errors import InvalidSettings
from . import disguises

TERMS_FILE = "terms.txt"


@dataclass(frozen=True)
class Refusal:
    """Say which kind of content a prompt asks for. term: the line of the file that matched."""

    kind: str
    term: str

    @property
    def message(self) -> str:
        return (
            f"The prompt was refused by the safety checker ({self.kind}). Describe another picture."
        )


@dataclass(frozen=True)
class _Term:
    kind: str
    line: str
    groups: tuple[re.Pattern[str], ...]  # each must be found


class PromptChecker:
    """Compare prompts with a list of terms; `refusals` counts them by kind since the start."""

    def __init__(self, terms: str, source: str = "the terms") -> None:
        self._terms: list[_Term] = []
        self._allowed: list[str] = []
        self._words: dict[str, _Term] = {}
        self.refusals: Counter[str] = Counter()
        self._read(terms, source)
        self._allowed_pattern = _any_of(self._allowed) if self._allowed else None

    @classmethod
    def open(cls, path: Path | None = None) -> PromptChecker:
        """Read the operator's file, or the list that ships; raise InvalidSettings with the line."""
        if path is None:
            return cls(shipped_terms(), TERMS_FILE)
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeError) as error:
            raise InvalidSettings(
                f"The terms file {str(path)!r} cannot be read: {error}.",
                hint="Write it as UTF-8 text, or remove the setting to use the list that ships.",
            ) from None

    def check(self, prompt: str) -> Refusal | None:
        """Return why the prompt is refused, or None. Takes about a millisecond."""
        for reading in disguises.readings(prompt):
            text = reading
            if self._allowed_pattern is not None:
                text = self._allowed_pattern.sub(" ", text)
            for term in self._terms:
                if all(group.search(text) for group in term.groups):
                    return self._refuse(term)
        for masked in disguises.masked_words(prompt):
            for word, term in self._words.items():
                if re.fullmatch(masked, word):
                    return self._refuse(term)
        return None

    def _refuse(self, term: _Term) -> Refusal:
        self.refusals[term.kind] += 1
        return Refusal(term.kind, term.line)

    def _read(self, terms: str, source: str) -> None:
        kind = ""
        for number, raw in enumerate(terms.splitlines(), 1):
            line = raw.partition("#")[0].strip()
            if not line:
                continue
            if line.startswith("["):
                kind = line[1:].removesuffix("]").strip()
                if not line.endswith("]") or not re.fullmatch(r"[a-z][a-z0-9_-]*", kind):
                    raise _bad_line(source, number, "a kind is written [name], in small letters")
            elif line.startswith("!"):
                self._allowed += _phrases(line[1:], source, number)
            elif not kind:
                raise _bad_line(source, number, "a [kind] must stand before the first term")
            else:
                self._add(kind, line, source, number)

    def _add(self, kind: str, line: str, source: str, number: int) -> None:
        groups = [_phrases(group, source, number) for group in line.split("+")]
        term = _Term(kind, line, tuple(_any_of(group) for group in groups))
        self._terms.append(term)
        if len(groups) == 1:
            for phrase in groups[0]:
                if phrase.isascii() and phrase.isalpha():
                    self._words.setdefault(phrase, term)


def shipped_terms() -> str:
    """Return the text of the list that ships."""
    return (files(__package__) / "data" / TERMS_FILE).read_text(encoding="utf-8")


def _phrases(group: str, source: str, number: int) -> list[str]:
    phrases = []
    for part in group.split(","):
        stem = part.strip().endswith("*")
        words = disguises.plain(part.strip().removesuffix("*")).split()
        if not words or (stem and len(words[-1]) < 3):
            raise _bad_line(source, number, "a term is missing or shorter than three letters and *")
        phrases.append(" ".join(words) + ("*" if stem else ""))
    return phrases


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(_pattern(phrase) for phrase in sorted(phrases, reverse=True)))


def _pattern(phrase: str) -> str:
    if not _has_word_breaks(phrase):
        return re.escape(phrase.removesuffix("*"))
    end = r"\w*(?= )" if phrase.endswith("*") else "(?= )"
    return "(?<= )" + re.escape(phrase.removesuffix("*")) + end


def _has_word_breaks(phrase: str) -> bool:
    """Tell whether the script puts spaces between words; Chinese, Japanese and Thai do not."""
    return not re.search(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]", phrase)


def _bad_line(source: str, number: int, reason: str) -> InvalidSettings:
    return InvalidSettings(f"Line {number} of {source} is not understood: {reason}.")
