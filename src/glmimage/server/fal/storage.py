"""fal's REST service: tokens for the file service, addresses for uploads, the webhook key.

Spec section 11: the Python client asks for a token (11.1, 11.2) or an address (11.3), the
JavaScript clients for an address (11.4). What is sent to these addresses arrives in cdn.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from ...jobs import AWAITED
from ..arrivals import incoming_path
from ..body import read_input
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .errors import RequestError
from .render import file_url
from .uploads import MULTIPART_LIFETIME_S, UPLOAD_LIFETIME_S, Upload, write_down

TOKEN_LIFETIME_S = 3600.0
_STORAGE_TYPES = ("", "fal-cdn-v3", "fal-cdn", "gcs")
_BODY_BYTES = 64 * 1024


async def create_token(services: Services, request: Request) -> Response:
    """Answer a token for the file service; its time has an offset that old Pythons can read."""
    _check_storage_type(request)
    key = request.scope.get("api_key")
    token = services.signer.seal(
        "cdn", {"o": key.id if key is not None else None}, TOKEN_LIFETIME_S
    )
    # clients use it until the second it names; it works a little longer than that
    expires = datetime.now(UTC) + timedelta(seconds=TOKEN_LIFETIME_S - 60)
    return JsonResponse(
        {
            "token": token,
            "token_type": "Bearer",
            "base_url": services.addresses.files(request),
            "expires_at": expires.isoformat(timespec="seconds"),
        }
    )


async def initiate(services: Services, request: Request) -> Response:
    """Answer an address that takes one file from anybody who knows it: ours once, or the bucket's.

    fal's Python client, which asks for "gcs", sends its key along: it is not led to the bucket.
    """
    return await _initiate(services, request, "put", UPLOAD_LIFETIME_S)


async def initiate_multipart(services: Services, request: Request) -> Response:
    """Answer an address that takes a file in parts."""
    return await _initiate(services, request, "parts", MULTIPART_LIFETIME_S)


async def webhook_keys(services: Services, request: Request) -> Response:
    """Answer the public key that webhooks are signed with."""
    return JsonResponse(services.signer.jwks, headers={"Cache-Control": "public, max-age=3600"})


async def _initiate(services: Services, request: Request, kind: str, lifetime_s: float) -> Response:
    _check_storage_type(request)
    body = await read_input(request, _BODY_BYTES)
    for field in ("file_name", "content_type"):
        if not isinstance(body.get(field, ""), str | None):
            raise RequestError("bad_request", f"`{field}` must be text.")
    key = request.scope.get("api_key")
    owner = key.id if key is not None else None
    upload = await Upload.new(
        services, request, owner, body.get("file_name"), body.get("content_type")
    )
    base = services.addresses.files(request)
    by_itself = request.query_params.get("storage_type") != "gcs"
    if kind == "put" and by_itself and services.bucket is not None:
        url = await services.bucket.sign("PUT", incoming_path(upload.id), lifetime_s)
        await write_down(services, upload, 0, AWAITED)
    else:
        token = services.signer.seal(kind, upload.as_token(), lifetime_s)
        folder = "put" if kind == "put" else "multipart"
        url = f"{base}/files/upload/{folder}/{upload.id}?token={token}"
    return JsonResponse({"upload_url": url, "file_url": file_url(base, upload.id, upload.name)})


def _check_storage_type(request: Request) -> None:
    kind = request.query_params.get("storage_type", "")
    if kind not in _STORAGE_TYPES:
        known = ", ".join(_STORAGE_TYPES[1:])
        raise RequestError("bad_request", f"storage_type must be one of {known}.")


STORAGE_ROUTES = (
    Route("rest", "POST", "/storage/auth/token", create_token),
    Route("rest", "POST", "/storage/upload/initiate", initiate),
    Route("rest", "POST", "/storage/upload/initiate-multipart", initiate_multipart),
    Route("rest", "GET", "/.well-known/jwks.json", webhook_keys, needs_key=False),
    Route("", "GET", "/.well-known/jwks.json", webhook_keys, needs_key=False),
)
