"""Decoder, glyph encoder and VAE of the shipped nano checkpoint, against diffusers."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.errors import ModelNotFound
from glmimage.loading.checkpoint import Checkpoint, resolve_model
from glmimage.model.schedule import make_schedule
from glmimage.prompt import get_glyph_texts

pytestmark = [pytest.mark.nano, pytest.mark.filterwarnings("ignore")]

PROMPT = "A poster with the headline 'OPEN' and the words 'all day'"
SIZE = 256  # enough to be off the trained sizes, and fast


@pytest.fixture(scope="module")
def checkpoint():
    try:
        return Checkpoint(resolve_model("nano"))
    except ModelNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def nano_reference(checkpoint):
    from diffusers import GlmImagePipeline

    return GlmImagePipeline.from_pretrained(
        checkpoint.path, vision_language_encoder=None, processor=None, dtype=torch.float32
    )


@torch.inference_mode()
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_velocity(checkpoint, nano_reference, dropped, with_reference):
    from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

    dit, theirs = checkpoint.load_dit(), nano_reference.transformer
    generator = torch.Generator().manual_seed(0)
    num_patches = (SIZE // 16) ** 2
    side = SIZE // 8
    latents, source = torch.randn(2, 1, dit.config.in_channels, side, side, generator=generator)
    ids, source_ids = torch.randint(
        0, checkpoint.vq_config.num_embeddings, (2, 1, num_patches), generator=generator
    )
    glyphs = checkpoint.load_glyph().encode(get_glyph_texts(PROMPT))[None]
    size, crop = torch.tensor([[SIZE, SIZE]]), torch.zeros(1, 2)
    timestep = make_schedule(10, SIZE, SIZE, checkpoint.scheduler_config).model_timesteps[3:4]
    drop = torch.tensor([dropped])
    cache, caches = None, GlmImageKVCache(dit.config.num_layers)
    if with_reference:
        cache = dit.encode_references([source[0]], [source_ids[0]], [(SIZE, SIZE)])
        caches.set_mode("write")
        kept = torch.zeros_like(source_ids, dtype=torch.bool)
        theirs(
            source, glyphs[:, :0], source_ids, kept, torch.zeros(1), size, crop, kv_caches=caches
        )
        caches.set_mode("read")
    velocity = dit(latents, glyphs, ids, drop, timestep, size, crop, reference_cache=cache)
    expected = theirs(
        latents, glyphs, ids, drop[:, None].expand_as(ids), timestep, size, crop, kv_caches=caches
    ).sample
    assert velocity.std() > 0.1
    assert (velocity - expected).abs().max() < 1e-4


@torch.inference_mode()
def test_glyphs_and_pixels(checkpoint, nano_reference):
    embeds = checkpoint.load_glyph().encode(get_glyph_texts(PROMPT))
    assert torch.equal(embeds, nano_reference._get_glyph_embeds(PROMPT)[0])

    vae = checkpoint.load_vae()
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    latents = vae.encode(image)
    config = nano_reference.vae.config
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    pixels = nano_reference.image_processor.preprocess(image, height=SIZE, width=SIZE)
    expected = (nano_reference.vae.encode(pixels).latent_dist.mode() - mean) / std
    assert torch.equal(latents, expected[0])
    decoded = nano_reference.vae.decode(latents[None] * std + mean).sample
    painted = nano_reference.image_processor.postprocess(decoded, output_type="pil")[0]
    assert np.array_equal(vae.decode(latents).numpy(), np.asarray(painted))
