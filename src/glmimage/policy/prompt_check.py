"""Does a prompt ask for a picture that is not painted? Read the terms, look through disguises."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..errors import InvalidSettings
from . import disguises
from .terms import Rule, Terms

TERMS_FILE = "terms.txt"


@dataclass(frozen=True)
class Refusal:
    """Say which kind of content a prompt asks for. term: what it was found by."""

    kind: str
    term: str

    @property
    def message(self) -> str:
        return f"The safety checker refused the prompt ({self.kind}). Describe another picture."


class PromptChecker:
    """Compare prompts with a list of terms; `refusals` counts them by kind since the start."""

    def __init__(self, terms: str, source: str = "the terms") -> None:
        self._terms = Terms(terms, source)
        self.refusals: Counter[str] = Counter()

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

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of content that the terms name."""
        return frozenset(rule.kind for rule in self._terms.rules)

    def check(self, prompt: str) -> Refusal | None:
        """Return why the prompt is refused, or None. Takes some milliseconds at most."""
        for reading in disguises.readings(prompt):
            found = self._terms.find(reading)
            if found is not None:
                return self._refuse(*found)
        for masked in disguises.masked_words(prompt):
            for word, rule in self._terms.single_words.items():
                if len(word) == masked.length and re.fullmatch(masked.pattern, word):
                    return self._refuse(rule, word)
        return None

    def _refuse(self, rule: Rule, term: str) -> Refusal:
        self.refusals[rule.kind] += 1
        return Refusal(rule.kind, term)


def shipped_terms() -> str:
    """Return the text of the list that ships."""
    return (files(__package__) / "data" / TERMS_FILE).read_text(encoding="utf-8")
