"""References of every kind: read, or refused with fal's type and numbers."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from glmimage.errors import InvalidImage
from glmimage.policy import (
    ImageLoadFailed,
    ImageTooLarge,
    ImageTooSmall,
    UnsupportedImageFormat,
    check_reference,
)
from glmimage.policy.references import read_reference
from glmimage.source_images import normalise_source_image


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(mode="RGB", size=(96, 64)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photo(), "JPEG", exif=exif)


def sixteen_bit():
    return saved(Image.fromarray(np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) * 10))


def animated(kind):
    frames = [photo().convert("P" if kind == "GIF" else "RGB") for _ in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


READ = {
    "png": saved(photo()),
    "jpeg": saved(photo(), "JPEG"),
    "progressive jpeg": saved(photo(size=(512, 512)), "JPEG", progressive=True),
    "cmyk jpeg": saved(photo("CMYK"), "JPEG"),
    "grey jpeg": saved(photo("L"), "JPEG"),
    "exif": rotated(),
    "stereo jpeg": saved(photo(), "MPO", save_all=True, append_images=[photo()]),
    "16 bit": sixteen_bit(),
    "1 bit": saved(photo("1")),
    "palette": saved(photo("P")),
    "alpha": saved(photo("RGBA")),
    "grey alpha": saved(photo("LA")),
    "interlaced": saved(photo(), optimize=True),
    "webp": saved(photo(), "WEBP"),
    "gif": saved(photo("P"), "GIF"),
    "animated gif": animated("GIF"),
    "animated webp": animated("WEBP"),
    "animated png": animated("PNG"),
    "bmp": saved(photo(), "BMP"),
    "tiff": saved(photo(), "TIFF"),
    "avif": saved(photo(), "AVIF"),
    "narrow": saved(photo(size=(128, 32))),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_pictures_are_read_here_and_in_the_worker(content):
    info = read_reference(content)
    assert info.width > info.height or info.format == "jpeg"
    assert info.content_type.startswith("image/")
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (info.width, info.height)
        assert normalise_source_image(image).mode == "RGB"


def png_header(width, height, colour=2, depth=8):
    """Write a PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def text_bomb():
    """Write a PNG whose comment unpacks to 100 MB."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    whole = saved(photo())
    at = whole.index(b"IDAT") - 4
    return whole[:at] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))) + whole[at:]


REFUSED = {
    "empty": (b"", ImageLoadFailed, {}),
    "text": (b"hello", ImageLoadFailed, {}),
    "html": (b"<!doctype html><title>403</title>", ImageLoadFailed, {}),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ImageLoadFailed, {}),
    "cut png": (READ["png"][:-400], ImageLoadFailed, {}),
    "cut jpeg": (READ["progressive jpeg"][:2000], ImageLoadFailed, {}),
    "cut webp": (READ["webp"][:200], ImageLoadFailed, {}),
    "only a header": (READ["png"][:24], ImageLoadFailed, {}),
    "damaged png": (READ["png"].replace(b"IDAT", b"IDAX"), ImageLoadFailed, {}),
    "comment bomb": (text_bomb(), ImageLoadFailed, {}),
    "postscript": (saved(photo(), "EPS"), UnsupportedImageFormat, None),
    "pdf": (saved(photo(), "PDF"), ImageLoadFailed, {}),
    "tga": (saved(photo(), "TGA"), UnsupportedImageFormat, None),
    "ico": (saved(photo(size=(64, 64)), "ICO"), UnsupportedImageFormat, None),
    "small": (saved(photo(size=(96, 31))), ImageTooSmall, {"min_width": 32, "min_height": 32}),
    "dot": (saved(photo(size=(1, 1))), ImageTooSmall, {"min_width": 32, "min_height": 32}),
    "bomb": (png_header(9000, 9000), ImageTooLarge, {"max_width": 8000, "max_height": 8000}),
    "larger bomb": (
        png_header(60000, 60000),
        ImageTooLarge,
        {"max_width": 8000, "max_height": 8000},
    ),
    "wide": (saved(photo(size=(400, 50))), ImageTooLarge, {"max_width": 200, "max_height": 50}),
    "high": (saved(photo(size=(50, 400))), ImageTooLarge, {"max_width": 50, "max_height": 200}),
}


@pytest.mark.parametrize(("content", "kind", "context"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_its_type(content, kind, context):
    with pytest.raises(kind) as caught:
        read_reference(content, "the reference http://a/b")
    error = caught.value
    assert error.message.startswith("The reference http://a/b")
    assert error.hint
    if context is None:
        assert "png" in error.context["supported_formats"]
    else:
        assert error.context == context


BROKEN = {name: row[0] for name, row in REFUSED.items() if row[1] is not UnsupportedImageFormat}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_the_worker_would_not_read_them_either(content):
    """Nothing is refused here that is fine there, but for formats that are not wanted."""
    unreadable = (InvalidImage, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
    with pytest.raises(unreadable), Image.open(io.BytesIO(content)) as image:
        normalise_source_image(image)


def test_every_error_is_one_of_fals_types():
    codes = {ImageLoadFailed, ImageTooLarge, ImageTooSmall, UnsupportedImageFormat}
    assert {kind.code for kind in codes} == {
        "image_load_error",
        "image_too_large",
        "image_too_small",
        "unsupported_image_format",
    }


@pytest.mark.anyio
async def test_decoding_does_not_hold_up_the_loop():
    import asyncio

    large = saved(photo(size=(900, 900)))
    checks = asyncio.gather(*(check_reference(large) for _ in range(3)))
    turns = 0
    while not checks.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert [info.width for info in checks.result()] == [900] * 3
    assert turns > 3
