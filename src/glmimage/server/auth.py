"""Who calls: api keys from the Authorization header, remembered for a moment; their rate limits."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import NamedTuple

from starlette.requests import HTTPConnection

from ..jobs import ApiKey, JobStore
from .fal.errors import RequestError, WireError

REMEMBERED_S = 2.0
"""A revoked key works for at most this long."""
MAX_REMEMBERED = 10_000


class _Known(NamedTuple):
    key: ApiKey | None
    until: float


class KeyRing:
    """Look up keys by their text; neither it nor anything it could be read from is kept."""

    def __init__(self, store: JobStore, *, required: bool) -> None:
        self._store = store
        self.required = required
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._buckets: dict[str, _Bucket] = {}

    async def check(self, connection: HTTPConnection) -> ApiKey | None:
        """Return the caller's key; None when keys are off; raise 401."""
        if not self.required:
            return None
        key = await self.find(credential(connection))
        if key is None:
            raise invalid_key()
        return key

    async def find(self, text: str) -> ApiKey | None:
        """Return the key with this text, or None when there is none, or it was revoked."""
        if not text:
            return None
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        known = self._known.get(digest)
        now = time.monotonic()
        if known is not None and now < known.until:
            return known.key
        key = await self._store.find_key(text)
        self._known[digest] = _Known(key, now + REMEMBERED_S)
        self._known.move_to_end(digest)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return key

    def count_request(self, key: ApiKey | None) -> None:
        """Count a request for a picture; raise 429 when the key's requests a minute are used up."""
        if key is None or key.rate is None:
            return
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate != key.rate:
            bucket = self._buckets[key.id] = _Bucket(key.rate)
        wait_s = bucket.take(time.monotonic())
        if wait_s > 0:
            raise RequestError(
                "rate_limit",
                f"This key may make {key.rate:g} requests a minute. "
                f"Try again in {wait_s:.0f} s or more.",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )


class _Bucket:
    """Let `rate` requests a minute pass, saved up for at most one minute."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._capacity = max(rate, 1.0)
        self._left = self._capacity
        self._at = time.monotonic()

    def take(self, now: float) -> float:
        """Take one; return 0, or the seconds until one is there."""
        self._left = min(self._capacity, self._left + (now - self._at) * self.rate / 60)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) * 60 / self.rate if self.rate > 0 else 60.0


def credential(connection: HTTPConnection) -> str:
    """Return what stands behind `Key` or `Bearer` in the Authorization header, or ""."""
    scheme, _, text = connection.headers.get("authorization", "").strip().partition(" ")
    return text.strip() if scheme.lower() in ("key", "bearer") else ""


def invalid_key() -> WireError:
    return WireError(401, {"detail": "invalid key credentials"})
