"""Latents and pixels equal what GlmImagePipeline makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.loading.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def vae(tiny_dir):
    return Checkpoint(tiny_dir).load_vae()


def picture(width, height, seed=0, mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def normalisers(reference):
    config = reference.vae.config
    return (
        torch.tensor(values).view(1, 16, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )


@torch.no_grad()
def diffusers_encode(reference, image):
    height, width = (side // 16 * 16 for side in reversed(image.size))
    pixels = reference.image_processor.preprocess(image, height=height, width=width)
    mean, std = normalisers(reference)
    return ((reference.vae.encode(pixels).latent_dist.mode() - mean) / std)[0]


@torch.no_grad()
def diffusers_decode(reference, latents):
    mean, std = normalisers(reference)
    pixels = reference.vae.decode(latents[None] * std + mean).sample
    return np.asarray(reference.image_processor.postprocess(pixels, output_type="pil")[0])


@pytest.mark.parametrize("size", [(128, 96), (64, 160), (131, 101), (95, 64)])
def test_encode_equals_the_reference(vae, reference, size):
    image = picture(*size)
    latents = vae.encode(image)
    assert latents.shape == (16, size[1] // 16 * 2, size[0] // 16 * 2)
    assert torch.equal(latents, diffusers_encode(reference, image))


def test_encode_takes_the_size_it_is_told(vae, reference):
    image = picture(100, 70)
    exact = image.resize((128, 96), Image.Resampling.LANCZOS)
    assert torch.equal(vae.encode(image, size=(96, 128)), diffusers_encode(reference, exact))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_is_read_as_rgb(vae, mode):
    image = picture(64, 64, mode=mode)
    assert torch.equal(vae.encode(image), vae.encode(image.convert("RGB")))


def test_encode_takes_the_mode_and_normalises(vae):
    """Twice the same: nothing is drawn; and the checkpoint's own mean and std are applied."""
    image = picture(64, 64)
    latents = vae.encode(image)
    assert torch.equal(latents, vae.encode(image))
    with torch.no_grad():
        raw = vae.autoencoder.encode(vae.preprocess(image)).latent_dist.mode()[0]
    assert (latents - raw).abs().mean() > 0.05


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_decode_equals_the_reference_to_the_last_bit(vae, reference, scale):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(16, 8, 12, generator=generator) * scale
    pixels = vae.decode(latents)
    expected = diffusers_decode(reference, latents)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (64, 96, 3)
    assert np.array_equal(pixels.numpy(), expected)
    assert 0 < (expected == 255).mean() < 0.9  # both rounding and clamping are seen


def test_tiles_equal_the_reference_s_to_the_last_bit(vae, reference, monkeypatch):
    latents = torch.randn(16, 36, 44, generator=torch.Generator().manual_seed(2))
    whole = vae.decode(latents)
    for autoencoder in (vae.autoencoder, reference.vae):
        for name, value in {
            "use_tiling": True,
            "tile_sample_min_size": 256,
            "tile_latent_min_size": 32,
        }.items():
            monkeypatch.setattr(autoencoder, name, value)
    tiled = vae.decode(latents)
    assert np.array_equal(tiled.numpy(), diffusers_decode(reference, latents))
    assert not torch.equal(tiled, whole)


def test_sizes_are_the_autoencoder_s(vae):
    assert vae.scale_factor == 8
    assert vae.latent_channels == 16


def test_no_gradient_is_kept(vae):
    assert not vae.encode(picture(64, 64)).requires_grad
