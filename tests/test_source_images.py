"""References come from cameras, scanners and the web; the model sees upright opaque RGB."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from glmimage.errors import InvalidImage
from glmimage.source_images import MAX_SOURCE_PIXELS, normalise_source_image, open_source_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def corner_and_centre(image):
    return image.getpixel((0, 0)), image.getpixel((image.width // 2, image.height // 2))


def test_exif_orientation_is_applied(tmp_path):
    upright = Image.new("RGB", (96, 64), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to view
    upright.save(tmp_path / "photo.png", exif=exif)
    image = open_source_image(tmp_path / "photo.png")
    assert image.size == (64, 96)
    assert image.getpixel((63, 0)) == RED
    assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (16, 16, 48, 48))
    if mode == "LA":
        image = image.convert("LA")
    if mode == "PA":
        image = image.convert("RGB").convert("P").convert("PA")
        image.putalpha(0)
    corner, centre = corner_and_centre(normalise_source_image(image))
    assert corner == WHITE
    assert centre == {"RGBA": RED, "LA": (76, 76, 76), "PA": WHITE}[mode]


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (64, 64), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (16, 16, 48, 48))
    image.save(tmp_path / "icon.png", transparency=0)
    assert corner_and_centre(open_source_image(tmp_path / "icon.png")) == (WHITE, RED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGB"])
def test_every_mode_becomes_rgb(mode):
    image = normalise_source_image(Image.new(mode, (64, 64)))
    assert (image.mode, image.size) == ("RGB", (64, 64))


def test_sixteen_bit_greys_keep_their_gradation(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, 0)
    Image.fromarray(ramp).save(tmp_path / "scan.png")
    greys = np.asarray(open_source_image(tmp_path / "scan.png"))[0, :, 0]
    assert np.abs(greys - np.linspace(0, 255, 64)).max() <= 1


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    first, second = Image.new("RGB", (64, 64), RED), Image.new("RGB", (64, 64), WHITE)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert open_source_image(tmp_path / "moving.gif").getpixel((5, 5)) == RED


def test_nothing_is_shared_with_the_given_picture():
    given = Image.new("RGB", (64, 64), RED)
    held = normalise_source_image(given)
    given.paste(WHITE, (0, 0, 64, 64))
    assert held.getpixel((0, 0)) == RED


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    for suffix in ("png", "jpg", "webp"):
        buffer = io.BytesIO()
        noise.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix))
        content = buffer.getvalue()
        for part in (0.01, 0.3, 0.6, 0.9):
            file = tmp_path / f"cut.{suffix}"
            file.write_bytes(content[: int(len(content) * part)])
            with pytest.raises(InvalidImage, match=str(file)):
                open_source_image(file)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(InvalidImage, match="too large"):
        open_source_image(tmp_path / "bomb.png")


def test_the_pixel_limit_is_exact():
    with pytest.raises(InvalidImage, match="at most 64 megapixels"):
        normalise_source_image(Image.new("1", (8001, 8000)))
    assert MAX_SOURCE_PIXELS == 8000 * 8000
    assert normalise_source_image(Image.new("1", (8000, 8000))).size == (8000, 8000)


@pytest.mark.parametrize(("size", "accepted"), [((256, 64), True), ((64, 257), False)])
def test_the_aspect_limit_is_exact(size, accepted):
    if accepted:
        assert normalise_source_image(Image.new("RGB", size)).size == size
    else:
        with pytest.raises(InvalidImage, match="4 times"):
            normalise_source_image(Image.new("RGB", size))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(InvalidImage, match=r"photo\.png"):
        open_source_image(tmp_path / "photo.png")


def test_a_missing_file_a_folder_and_a_fifo(tmp_path):
    with pytest.raises(InvalidImage, match="There is no file"):
        open_source_image(tmp_path / "absent.png")
    with pytest.raises(InvalidImage, match="is a folder"):
        open_source_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InvalidImage, match="not an ordinary file"):
        open_source_image(tmp_path / "pipe.png")
