"""The body of an edit: multipart with one or several pictures, or JSON with their addresses."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ...policy.references import OPENED_FORMATS
from ...types import MAX_SOURCE_IMAGES
from ..body import check_object, parse_json, read_body
from .errors import ApiError
from .params import AUTO_SIZE, auto_size_of

IMAGE_FIELDS = ("image", "image[]")
MAX_FILES, MAX_FIELDS = 16, 64
LORA_FIELD = re.compile(r"loras\[\d*\]\[(path|scale)\]")
ORIENTATION_TAG, TURNED = 274, (5, 6, 7, 8)


class EditForm(NamedTuple):
    """Hold an edit's fields and pictures. image_urls: data URIs, or addresses as given."""

    fields: dict[str, Any]
    image_urls: list[str]
    auto_size: tuple[int, int]


async def read_edit_form(request: Request, limit: int) -> EditForm:
    """Read the body of an edit, at most `limit` bytes; raise ApiError."""
    body = await read_body(request, limit)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(check_object(parse_json(body)))
    if kind != "multipart/form-data":
        message = "The body of an edit is multipart/form-data with an 'image', or JSON."
        raise ApiError(400, message, "invalid_content_type")
    return await _from_multipart(request.headers, body)


async def _from_multipart(headers: Headers, body: bytes) -> EditForm:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        parser = MultiPartParser(headers, stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS)  # type: ignore[arg-type]
        form = await parser.parse()
    except (MultiPartException, KeyError, AssertionError) as error:
        reason = getattr(error, "message", "") or "it is not well formed"
        message = f"The multipart body cannot be read: {reason}"
        raise ApiError(400, message, "invalid_body") from None
    fields: dict[str, Any] = {}
    loras: dict[str, list[str]] = {}
    pictures: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if name in IMAGE_FIELDS:
                pictures.append(await _content(value))
            elif isinstance(value, UploadFile):
                fields[name] = value.filename or "a file"
            elif found := LORA_FIELD.fullmatch(name):
                loras.setdefault(found[1], []).append(value)
            else:
                fields[name] = value
    finally:
        await form.close()
    if loras:
        fields["loras"] = _gathered(loras)
    elif isinstance(fields.get("loras"), str):
        with suppress(ValueError):  # what it is instead is said where fields are checked
            fields["loras"] = json.loads(fields["loras"])
    urls = [f"data:;base64,{base64.b64encode(content).decode('ascii')}" for content in pictures]
    return _checked(fields, urls, pictures[0] if pictures else b"")


def _gathered(loras: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Put adapters together that came field by field; clients send all paths, then all scales."""
    paths, scales = loras.get("path", ()), loras.get("scale", ())
    if scales and len(scales) != len(paths):
        message = "Invalid 'loras': give each a 'path', and a 'scale' to all of them or to none."
        raise ApiError(400, message, "invalid_value", "loras")
    named = [{"path": path} for path in paths]
    for one, scale in zip(named, scales, strict=False):
        one["scale"] = scale
    return named


async def _content(value: UploadFile | str) -> bytes:
    if isinstance(value, str):
        message = "Invalid 'image': it must be a file, sent with a file name."
        raise ApiError(400, message, "invalid_type", "image")
    return await value.read()


def _from_json(body: dict[str, Any]) -> EditForm:
    """Take `images: [{"image_url": ...}]`, as OpenAI does, or `image` with addresses."""
    fields = {name: value for name, value in body.items() if name not in ("image", "images")}
    given = body.get("images", body.get("image"))
    entries: Sequence[Any] = given if isinstance(given, list) else [given] if given else []
    urls: list[str] = []
    for entry in entries:
        url = entry.get("image_url") if isinstance(entry, Mapping) else entry
        if not isinstance(url, str) or not url:
            message = "Invalid 'images': each must have an 'image_url': http(s), or a data URI."
            raise ApiError(400, message, "invalid_type", "images")
        urls.append(url)
    first = urls[0] if urls else ""
    content = b""
    if first[:5].lower() == "data:":
        with suppress(ValueError):  # it is refused where references are read
            content = base64.b64decode(first.partition(",")[2])
    return _checked(fields, urls, content)


def _checked(fields: dict[str, Any], urls: list[str], first: bytes) -> EditForm:
    if not urls:
        message = "Missing required parameter: 'image'."
        raise ApiError(400, message, "missing_required_parameter", "image")
    if len(urls) > MAX_SOURCE_IMAGES:
        message = f"Invalid 'image': {len(urls)} pictures were given; at most {MAX_SOURCE_IMAGES} "
        raise ApiError(400, f"{message}are read.", "invalid_value", "image")
    return EditForm(fields, urls, _size_like(first))


def _size_like(content: bytes) -> tuple[int, int]:
    """Return what `auto` means for an edit of this picture; only its header is read."""
    try:
        with Image.open(io.BytesIO(content), formats=OPENED_FORMATS) as image:
            width, height = image.size
            if image.getexif().get(ORIENTATION_TAG) in TURNED:
                width, height = height, width
    except Exception:  # whatever is wrong with it is said where references are checked
        return AUTO_SIZE
    return auto_size_of(width, height)
