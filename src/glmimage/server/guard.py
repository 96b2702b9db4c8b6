"""The policy that the settings ask for."""

from __future__ import annotations

from pydantic import SecretStr

from ..config import Settings
from ..errors import InvalidSettings
from ..policy import Endpoint, FetchLimits, Policy, open_policy


def policy_from_settings(settings: Settings) -> Policy:
    """Read the terms, and build the endpoints that are configured; raise InvalidSettings."""
    if settings.expansion_url and not settings.expansion_model:
        raise InvalidSettings(
            "GLMIMAGE_EXPANSION_URL is set, but no model for it.",
            hint="Name one in GLMIMAGE_EXPANSION_MODEL.",
        )
    return open_policy(
        terms_file=settings.terms_file,
        moderation=_endpoint(
            settings.moderation_url,
            settings.moderation_model,
            settings.moderation_api_key,
            settings.moderation_timeout_s,
        ),
        moderation_on_failure=settings.moderation_on_failure,
        expansion=_endpoint(
            settings.expansion_url,
            settings.expansion_model,
            settings.expansion_api_key,
            settings.expansion_timeout_s,
        ),
        expansion_on_failure=settings.expansion_on_failure,
        allowed_references=settings.reference_hosts.split(","),
        allowed_webhooks=settings.webhook_hosts.split(","),
        reference_limits=FetchLimits(
            max_bytes=settings.max_reference_bytes, total_s=settings.reference_timeout_s
        ),
    )


def _endpoint(
    url: str | None, model: str, api_key: SecretStr | None, timeout_s: float
) -> Endpoint | None:
    if not url:
        return None
    return Endpoint(url, model, api_key.get_secret_value() if api_key else "", timeout_s)
