"""Ask an OpenAI-compatible moderation endpoint about a prompt."""

from __future__ import annotations

import logging
from typing import Any

from .endpoint import Endpoint
from .errors import ServiceUnavailable
from .prompt_check import Refusal

log = logging.getLogger(__name__)


class Moderator:
    """Ask about each prompt that the list of terms lets through.

    on_failure: `error` raises ServiceUnavailable while the endpoint is down, `allow` goes on.
    """

    def __init__(self, endpoint: Endpoint, *, on_failure: str = "error") -> None:
        self._endpoint = endpoint
        self._on_failure = on_failure

    async def moderate(self, prompt: str) -> Refusal | None:
        """Return why the prompt is refused, or None."""
        try:
            body = {"model": self._endpoint.model, "input": prompt}
            return _read_answer(await self._endpoint.post("moderations", body))
        except ServiceUnavailable as error:
            if self._on_failure == "allow":
                log.warning("A prompt is let through without moderation: %s", error.message)
                return None
            raise ServiceUnavailable(
                f"The prompt could not be checked: {error.message}", hint="Try again later."
            ) from None

    async def close(self) -> None:
        """Release the connection."""
        await self._endpoint.close()


def _read_answer(answer: Any) -> Refusal | None:
    """Return the refusal of the first result that is flagged; a long prompt may have several."""
    try:
        results = [(one["flagged"], one.get("categories") or {}) for one in answer["results"]]
        names = [sorted(name for name, value in found.items() if value) for _, found in results]
    except (KeyError, TypeError, AttributeError):
        results, names = [], []
    if not results or not all(isinstance(flagged, bool) for flagged, _ in results):
        raise ServiceUnavailable("the answer is not one of a moderation endpoint.")
    for (flagged, _), kinds in zip(results, names, strict=True):
        if flagged:
            return Refusal((kinds[0] if kinds else "flagged")[:40], "moderation endpoint")
    return None
