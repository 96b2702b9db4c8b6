"""A picture that the VAE decodes in tiles: nearly the same, and the only mode that is not exact."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from glmimage.pipeline import decode
from glmimage.stages import Stages


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stage(tiny_dir):
    return Stages.load(str(tiny_dir), "cpu", "float32", "resident").decode()


@pytest.fixture(scope="module")
def nano():
    return Stages.load("nano", "cpu", "float32", "staged").decode()


def poster(width, height):
    """Draw large type and a ramp: what seams and shifted tones would show in."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 2, height // 2, width - 20, height - 20), fill=(200, 40, 40))
    pen.text((20, height // 3), "OPEN DAY", fill="white", font_size=100)
    return image


def painted(stage, latents, side):
    """Decode where a picture of `side` px square fits."""
    (image,) = decode(dataclasses.replace(stage, vae_pixels=side**2), latents)
    return np.asarray(image, np.int16)


@pytest.mark.parametrize(
    ("fits", "num_tiles", "largest"),
    [(2048, 1, [68, 72]), (550, 4, [68, 68]), (512, 4, [64, 64]), (0, 4, [64, 64])],
)
def test_no_tile_is_larger_than_fits(stage, monkeypatch, fits, num_tiles, largest):
    """The checkpoint's own tiles are of 1024 px, and would leave this picture whole."""
    seen = []
    network = stage.vae.autoencoder.decoder
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda one: seen.append(one.shape[2:]) or forward(one))
    latents = torch.randn(1, 16, 68, 72, generator=torch.Generator().manual_seed(1))
    assert painted(stage, latents, fits).shape == (544, 576, 3)
    assert [max(shape[axis] for shape in seen) for axis in (0, 1)] == largest
    assert len(seen) == num_tiles


def test_tiles_are_near_the_whole_picture(nano):
    """Each tile is normalised by itself, so that tones shift by a step, and more at an edge."""
    latents = nano.vae.encode(poster(640, 512), (512, 640))[None]
    whole, tiled = painted(nano, latents, 2048), painted(nano, latents, 512)
    off = np.abs(whole - tiled)
    assert 0 < off.mean() < 1
    assert np.quantile(off, 0.999) <= 8
    assert off.max() <= 40
    assert np.array_equal(painted(nano, latents, 2048), whole)  # the tiles are gone again
