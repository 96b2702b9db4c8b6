"""The quoted parts of a prompt: the words that are to be written in the picture."""

from __future__ import annotations

import re

_QUOTES = (r"'([^']*)'", r"\u201c([^\u201c\u201d]*)\u201d", r'"([^"]*)"', r"「([^「」]*)」")


def get_glyph_texts(prompt: str) -> list[str]:
    """Return the quoted parts of a prompt: all in '', then in “”, then in "", then in 「」."""
    return [text for quotes in _QUOTES for text in re.findall(quotes, prompt)]
