"""References that a request names: fetched within limits, and known to be pictures."""

from __future__ import annotations

import asyncio
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from ..errors import InvalidImage
from ..source_images import (
    MAX_SOURCE_ASPECT,
    MAX_SOURCE_PIXELS,
    MIN_SOURCE_SIDE,
    check_source_size,
)
from .errors import ImageLoadFailed, ImageTooLarge, ImageTooSmall, UnsupportedImageFormat

# the formats whose readers are safe with strangers' bytes: none of them starts a program
FORMATS = {
    "PNG": "png",
    "JPEG": "jpeg",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
    "MPO": "jpeg",  # what JPEG's reader makes of two pictures in one file
}
OPENED_FORMATS = [name for name in FORMATS if name != "MPO"]
_EXTENSIONS = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff", "avif"]
_FIX = "Give a PNG, JPEG or WebP file that an image viewer opens."

# a decoded picture may hold some hundred MB
_one_at_a_time = ThreadPoolExecutor(1, thread_name_prefix="references")


@dataclass(frozen=True)
class ReferenceInfo:
    """Describe a reference that can be read. width, height: px as stored, before turning."""

    format: str
    content_type: str
    width: int
    height: int


async def check_reference(content: bytes, label: str = "the reference image") -> ReferenceInfo:
    """Decode a reference once, beside the event loop, so that a bad one is refused at once.

    Raise ImageLoadFailed, ImageTooSmall, ImageTooLarge or UnsupportedImageFormat. Turning it into
    upright RGB is left to `normalise_source_image` in the worker.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_one_at_a_time, read_reference, content, label)


def read_reference(content: bytes, label: str = "the reference image") -> ReferenceInfo:
    """Do what `check_reference` does, in this thread."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=OPENED_FORMATS) as image:
                _check_size(image, label)
                info = ReferenceInfo(
                    FORMATS[image.format or ""],
                    Image.MIME.get(image.format or "", "application/octet-stream"),
                    *image.size,
                )
                # an eighth of the size is enough to know that a JPEG is complete
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
                return info
    except Image.DecompressionBombError:
        raise _too_large(label, "") from None
    except UnidentifiedImageError:
        raise _not_a_picture(content, label) from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, KeyError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageLoadFailed(
            f"{_cap(label)} cannot be read to its end: {reason}.", hint=_FIX
        ) from None


def _check_size(image: Image.Image, label: str) -> None:
    try:
        check_source_size(*image.size, label)
    except InvalidImage as error:
        if min(image.size) < MIN_SOURCE_SIDE:
            context = {"min_width": MIN_SOURCE_SIDE, "min_height": MIN_SOURCE_SIDE}
            raise ImageTooSmall(error.message, hint=error.hint, context=context) from None
        if image.width * image.height > MAX_SOURCE_PIXELS:
            raise _too_large(label, f" ({image.width}x{image.height} px)") from None
        side = int(min(image.size) * MAX_SOURCE_ASPECT)
        context = {
            "max_width": side if image.width > image.height else image.width,
            "max_height": side if image.height > image.width else image.height,
        }
        raise ImageTooLarge(error.message, hint=error.hint, context=context) from None


def _too_large(label: str, size: str) -> ImageTooLarge:
    side = int(MAX_SOURCE_PIXELS**0.5)
    return ImageTooLarge(
        f"{_cap(label)} is too large{size}; at most {MAX_SOURCE_PIXELS // 10**6} megapixels "
        "are read.",
        hint="Scale it down first; nothing above 2048 px a side is used anyway.",
        context={"max_width": side, "max_height": side},
    )


def _not_a_picture(content: bytes, label: str) -> UnsupportedImageFormat | ImageLoadFailed:
    try:
        with Image.open(io.BytesIO(content)) as image:
            known = image.format
    except Exception:  # any reader may stumble over it; it is refused either way
        known = None
    if known is None:
        return ImageLoadFailed(f"{_cap(label)} is not a picture in a known format.", hint=_FIX)
    return UnsupportedImageFormat(
        f"{_cap(label)} is a {known} file, which is not read.",
        hint=_FIX,
        context={"supported_formats": _EXTENSIONS},
    )


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]
