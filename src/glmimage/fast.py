"""Exact switches that have to be asked for: compile, graphs, guesses."""

from __future__ import annotations

from .errors import InvalidSettings

FAST = {
    "compile": "compile the decoder's layers, a few times in all, and what graphs run",
    "graphs": "run a decode step of the prior as one CUDA graph",
    "guesses": "guess the prior's next tokens and read several in one pass, while that gains",
}


def parse_fast(text: str) -> frozenset[str]:
    """Read `compile,graphs,guesses`; raise InvalidSettings."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAST:
            raise InvalidSettings(
                f"There is no fast switch {name!r}.", hint=f"Known are: {', '.join(FAST)}."
            )
    return frozenset(names)
