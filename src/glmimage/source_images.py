"""Reference pictures: open, check, and turn into upright opaque RGB."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InvalidImage

MIN_SOURCE_SIDE = 32
"""px; below it not one 32 px prior cell is left."""
MAX_SOURCE_PIXELS = 64_000_000
"""A refused picture is never decoded: the header alone says how large it would become."""
MAX_SOURCE_ASPECT = 4.0
"""Longer side over shorter side; the resize rule of the vision encoder ends there."""

_FIX_READ = "Give a PNG, JPEG or WebP file that an image viewer opens."


def open_source_image(path: str | PathLike[str]) -> Image.Image:
    """Read a reference picture from a file; raise InvalidImage naming the file."""
    file = Path(path)
    label = f"the reference image {str(file)!r}"
    if not file.exists():
        raise InvalidImage(f"There is no file {str(file)!r}.", hint="Check the path of --image.")
    if file.is_dir():
        raise InvalidImage(f"{str(file)!r} is a folder, not a picture.", hint=_FIX_READ)
    if not file.is_file():
        raise InvalidImage(f"{str(file)!r} is not an ordinary file.", hint=_FIX_READ)
    try:
        with warnings.catch_warnings():
            # our own, lower limit is checked below, with a sentence
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return normalise_source_image(image, label)
    except Image.DecompressionBombError:
        raise InvalidImage(*_too_large(label), hint=_SHRINK) from None
    except PermissionError:
        raise InvalidImage(f"No permission to read {str(file)!r}.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _unreadable(label, error) from None


def normalise_source_image(image: Image.Image, label: str = "a reference image") -> Image.Image:
    """Return the first frame as loaded, upright, opaque RGB; raise InvalidImage when it cannot be.

    Sizes are checked before anything is decoded. Transparency is laid on white.
    """
    if not isinstance(image, Image.Image):
        raise InvalidImage(
            f"A reference image must be a PIL image, not {type(image).__name__}.",
            hint="Open it with PIL.Image.open().",
        )
    check_source_size(*image.size, label)
    try:
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise _unreadable(label, error) from None


def check_source_size(width: int, height: int, label: str = "a reference image") -> None:
    """Refuse a reference that is too small, too large or too narrow (units: px)."""
    longer, shorter = max(width, height), min(width, height)
    if shorter < MIN_SOURCE_SIDE:
        raise InvalidImage(
            f"{_cap(label)} is {width}x{height} px; both sides must have "
            f"at least {MIN_SOURCE_SIDE} px.",
            hint="Give a larger picture.",
        )
    if width * height > MAX_SOURCE_PIXELS:
        raise InvalidImage(*_too_large(label, width, height), hint=_SHRINK)
    if longer > MAX_SOURCE_ASPECT * shorter:
        raise InvalidImage(
            f"{_cap(label)} is {width}x{height} px, {longer / shorter:.1f}:1; "
            f"the longer side may be at most {MAX_SOURCE_ASPECT:g} times the shorter one.",
            hint="Crop it.",
        )


_SHRINK = "Scale it down first; nothing above 2048 px a side is used anyway."


def _too_large(label: str, width: int = 0, height: int = 0) -> tuple[str]:
    size = f" ({width}x{height} px)" if width else ""
    limit = MAX_SOURCE_PIXELS // 1_000_000
    return (f"{_cap(label)} is too large{size}; at most {limit} megapixels are read.",)


def _unreadable(label: str, error: BaseException) -> InvalidImage:
    if isinstance(error, UnidentifiedImageError):
        return InvalidImage(f"{_cap(label)} is not a picture in a known format.", hint=_FIX_READ)
    reason = " ".join(str(error).split()) or type(error).__name__
    return InvalidImage(f"{_cap(label)} cannot be read to its end: {reason}.", hint=_FIX_READ)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _sixteen_bit_to_grey(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    rgb = image.convert("RGB")
    # a fresh object: no file handle, no EXIF, nothing shared with the caller's picture
    return Image.frombytes("RGB", rgb.size, rgb.tobytes())


def _sixteen_bit_to_grey(image: Image.Image) -> Image.Image:
    # PIL's own conversion clips everything above 255 to white
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    finite = np.nan_to_num(values, nan=0.0, posinf=65535.0, neginf=0.0)
    top = 1.0 if image.mode == "F" and finite.max(initial=0.0) <= 1.0 else 255.0
    if finite.max(initial=0.0) > 255.0 or image.mode.startswith("I;16"):
        top = 65535.0
    grey = np.clip(finite / top, 0.0, 1.0) * 255.0
    return Image.fromarray(np.round(grey).astype(np.uint8), mode="L")


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]
