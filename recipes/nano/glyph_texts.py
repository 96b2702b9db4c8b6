"""The quoted strings of a prompt, as the model sees them."""

import re

_PATTERNS = (r"'([^']*)'", "“([^“”]*)”", r'"([^"]*)"', "「([^「」]*)」")


def get_glyph_texts(prompt: str) -> list[str]:
    """Return what stands in single, curly, double and corner quotes, in that order."""
    return [text for pattern in _PATTERNS for text in re.findall(pattern, prompt)]
