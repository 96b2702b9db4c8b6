"""Is this an address a webhook may be sent to? The guard looks again when it is sent."""

from __future__ import annotations

from ..policy.address import parse_public_url
from ..policy.errors import FetchFailed
from .fal.errors import RequestError

MAX_URL = 4096


def check_webhook_url(url: str | None) -> str | None:
    """Return the URL; None for none; raise 400 `bad_request` for one that cannot be called."""
    if url is None:
        return None
    if len(url) > MAX_URL:
        raise RequestError("bad_request", f"fal_webhook is longer than {MAX_URL} characters.")
    try:
        parse_public_url(url)
    except FetchFailed as error:
        raise RequestError("bad_request", f"fal_webhook: {error.message}") from None
    return url
