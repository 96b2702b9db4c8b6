"""Short-lived tokens for sockets and client-side streams: JWT, HS256 (spec 10)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, StrictStr, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from ...jobs import ApiKey
from ..body import read_input
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .errors import ModelError, WireError, detail_item
from .schemas import APP

DEFAULT_LIFE_S = 120
MAX_LIFE_S = 86400
_HEADER = {"alg": "HS256", "typ": "JWT"}


class TokenRequest(BaseModel):
    """Ask for a token that opens the named apps."""

    allowed_apps: list[Annotated[StrictStr, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=50, examples=[["glm-image"]]
    )
    token_expiration: int = Field(
        DEFAULT_LIFE_S,
        ge=1,
        le=MAX_LIFE_S,
        validation_alias=AliasChoices("token_expiration", "duration"),
        description="seconds",
    )


async def make_token(services: Services, request: Request) -> Response:
    """Answer with a bare JSON string, which both clients read."""
    body = await read_input(request, services.settings.max_body_bytes)
    try:
        asked = TokenRequest.model_validate(body)
    except ValidationError as error:
        raise ModelError(
            [
                detail_item(one["type"], one["msg"], ("body", *one["loc"]), None, one["input"])
                for one in error.errors(include_url=False, include_context=False)
            ]
        ) from None
    key = request.scope.get("api_key")
    claims = {
        "apps": asked.allowed_apps,
        "sub": key.id if key is not None else "",
        "exp": int(time.time()) + asked.token_expiration,
    }
    return JsonResponse(sign(claims, services.secret))


def sign(claims: dict[str, Any], secret: bytes) -> str:
    """Return the claims as a JWT."""
    message = f"{_pack(_HEADER)}.{_pack(claims)}"
    return f"{message}.{_base64(_mac(message, secret))}"


def read_token(token: str, secret: bytes) -> dict[str, Any] | None:
    """Return the claims of a token that is ours and still valid, or None."""
    message, _, signature = token.rpartition(".")
    try:
        given = _unbase64(signature)
        if not hmac.compare_digest(given, _mac(message, secret)):
            return None
        header, claims = (json.loads(_unbase64(part)) for part in message.split("."))
    except (ValueError, binascii.Error, UnicodeError):
        return None
    if header != _HEADER or not isinstance(claims, dict) or claims.get("exp", 0) <= time.time():
        return None
    return claims


async def key_of_token(services: Services, token: str) -> ApiKey | None:
    """Return the key that a token stands for; None when keys are off; raise 401."""
    claims = read_token(token, services.secret)
    name = APP.partition("/")[2]
    if claims is None or not any(app in (name, APP, f"{APP}/*") for app in claims["apps"]):
        raise WireError(401, {"detail": "invalid token"})
    if not services.keys.required:
        return None
    for key in await services.store.list_keys():
        if key.id == claims["sub"] and key.revoked_at is None:
            return key
    raise WireError(401, {"detail": "invalid token"})


def _pack(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _mac(message: str, secret: bytes) -> bytes:
    return hmac.new(secret, message.encode(), hashlib.sha256).digest()


ROUTES = [
    Route("rest", "POST", "/tokens", make_token),
    Route("rest", "POST", "/tokens/realtime", make_token),
]
