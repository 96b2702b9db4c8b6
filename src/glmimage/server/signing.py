"""What the server signs with its secret: upload addresses, file tokens, webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_KEY_BYTES = 32
_MAC_BYTES = 18


class Signer:
    """Sign with keys drawn from one secret, which is the same on every gateway."""

    def __init__(self, secret: bytes) -> None:
        self._url_key = _derive(secret, b"glmimage signed addresses")
        self._webhook_key = Ed25519PrivateKey.from_private_bytes(
            _derive(secret, b"glmimage webhooks")
        )

    def seal(self, kind: str, content: Mapping[str, Any], lifetime_s: float) -> str:
        """Return a token that says `content` until its time is over; readable, not forgeable."""
        body = {**content, "k": kind, "exp": int(time.time() + lifetime_s)}
        packed = _pack(json.dumps(body, separators=(",", ":")).encode())
        return f"{packed}.{self._mac(packed)}"

    def unseal(self, kind: str, token: str) -> dict[str, Any] | None:
        """Return what a valid token of this kind says; None for any other text."""
        packed, _, mac = token.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(packed).encode()):
            return None
        body: dict[str, Any] = json.loads(_unpack(packed))
        if body["k"] != kind or body["exp"] < time.time():
            return None
        return body

    def sign_webhook(self, message: bytes) -> str:
        """Return the Ed25519 signature in hex."""
        return self._webhook_key.sign(message).hex()

    @cached_property
    def jwks(self) -> dict[str, Any]:
        """Return the public key as receivers of webhooks fetch it."""
        public = self._webhook_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "x": _pack(public)}
        return {"keys": [{**key, "kid": hashlib.sha256(public).hexdigest()[:16]}]}

    def _mac(self, packed: str) -> str:
        digest = hmac.digest(self._url_key, packed.encode("utf-8", "replace"), "sha256")
        return _pack(digest[:_MAC_BYTES])


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=purpose).derive(secret)


def _pack(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
