"""Ask an OpenAI-compatible moderation endpoint about a prompt."""

from __future__ import annotations

from typing import Any

from .endpoint import Endpoint
from .errors import ServiceUnavailable
from .prompt_check import Refusal


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
                return None
            raise ServiceUnavailable(
                f"The prompt could not be checked: {error.message}", hint="Try again later."
            ) from None

    async def close(self) -> None:
        """Release the connection."""
        await self._endpoint.close()


def _read_answer(answer: Any) -> Refusal | None:
    try:
        result = answer["results"][0]
        flagged = result["flagged"]
        categories = result.get("categories") or {}
        names = sorted(name for name, value in categories.items() if value is True)
    except (KeyError, IndexError, TypeError, AttributeError):
        flagged = None
    if not isinstance(flagged, bool):
        raise ServiceUnavailable("the answer is not one of a moderation endpoint.")
    if not flagged:
        return None
    kind = names[0] if names else "flagged"
    return Refusal(kind[:40], "moderation endpoint")
