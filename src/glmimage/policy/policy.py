"""All of the policy in one value, as the server passes it around."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .address import AddressGuard
from .endpoint import Endpoint
from .expansion import PromptExpander
from .fetch import FetchLimits
from .moderation import Moderator
from .prompt_check import PromptChecker, Refusal


@dataclass(frozen=True)
class Policy:
    """Hold the checks of prompts, the rewriting of prompts, and the rules for fetching.

    reference_guard, webhook_guard: which private addresses are allowed for either.
    """

    prompts: PromptChecker
    moderator: Moderator | None = None
    expander: PromptExpander = field(default_factory=lambda: PromptExpander(None))
    reference_guard: AddressGuard = field(default_factory=AddressGuard)
    webhook_guard: AddressGuard = field(default_factory=AddressGuard)
    reference_limits: FetchLimits = field(default_factory=FetchLimits)

    def check_prompt(self, prompt: str) -> Refusal | None:
        """Compare the prompt with the terms: fast, on the spot."""
        return self.prompts.check(prompt)

    async def moderate_prompt(self, prompt: str) -> Refusal | None:
        """Ask the moderation endpoint when there is one; raise ServiceUnavailable."""
        if self.moderator is None:
            return None
        refusal = await self.moderator.moderate(prompt)
        if refusal is not None:
            self.prompts.refusals[refusal.kind] += 1
        return refusal

    @property
    def moderates(self) -> bool:
        """Tell whether checking a prompt takes a slow call."""
        return self.moderator is not None

    async def close(self) -> None:
        """Release the connections to the endpoints."""
        if self.moderator is not None:
            await self.moderator.close()
        await self.expander.close()


def open_policy(
    *,
    terms_file: Path | None = None,
    moderation: Endpoint | None = None,
    moderation_on_failure: str = "error",
    expansion: Endpoint | None = None,
    expansion_on_failure: str = "original",
    allowed_references: Iterable[str] = (),
    allowed_webhooks: Iterable[str] = (),
    reference_limits: FetchLimits | None = None,
) -> Policy:
    """Read the terms and build the rest; raise InvalidSettings."""
    return Policy(
        prompts=PromptChecker.open(terms_file),
        moderator=(Moderator(moderation, on_failure=moderation_on_failure) if moderation else None),
        expander=PromptExpander(expansion, on_failure=expansion_on_failure),
        reference_guard=AddressGuard(allowed_references),
        webhook_guard=AddressGuard(allowed_webhooks),
        reference_limits=reference_limits or FetchLimits(),
    )
