"""What the denoise loop computes once and keeps is what every step would compute for itself."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.model.prior import upsample_prior
from glmimage.model.sampling import RandomStream
from glmimage.model.schedule import make_schedule
from glmimage.picture import make_pictures
from glmimage.pipeline import denoise, encode_prompts, encode_references
from glmimage.prompt import get_glyph_texts
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PriorReady

SIZE = {"width": 544, "height": 512}


@pytest.fixture(scope="module")
def stages(tiny_dir):
    torch.set_num_threads(1)
    return Stages.load(str(tiny_dir), "cpu", "float32", "resident")


def make_picture(stages, **options):
    """Return a picture whose prior is written, so that only the decoder is left."""
    request = GenerationRequest("A sign 'OPEN'", num_inference_steps=4, seed=3, **SIZE, **options)
    (picture,) = pictures = make_pictures("x", request)
    encode_prompts(stages.prior(), pictures)
    grid = SIZE["height"] // 32, SIZE["width"] // 32
    tokens = np.random.default_rng(1).integers(0, 256, grid[0] * grid[1])
    picture.prior = PriorReady(*picture.key, grid, tuple(map(int, tokens)))
    return picture


def naive_denoise(stage, picture):
    """Denoise with nothing kept: each step reads prompt, prior, time and references anew."""
    request, dit = picture.request, stage.dit
    sizes = {"target_size": torch.tensor([[SIZE["height"], SIZE["width"]]])}
    sizes |= {"crop_coords": torch.zeros(1, 2)}
    prior = picture.prior
    ids = upsample_prior(torch.tensor(prior.prior_token_ids), prior.large_grid)[None]
    schedule = make_schedule(
        request.num_inference_steps, SIZE["height"], SIZE["width"], stage.scheduler_config
    )
    latents = RandomStream(picture.seed).noise((16, SIZE["height"] // 8, SIZE["width"] // 8))[None]
    for step, timestep in enumerate(schedule.model_timesteps):
        velocity = {}
        for dropped, text in ((False, request.prompt), (True, "")):
            dit._rotary.clear()
            velocity[dropped] = dit(
                latents,
                stage.glyph._encode(get_glyph_texts(text))[None],
                ids,
                torch.tensor([dropped]),
                timestep[None],
                **sizes,
                reference_cache=None if dropped else encode_references(stage, picture),
            )
        guided = velocity[True] + request.guidance_scale * (velocity[False] - velocity[True])
        start, end = schedule.sigmas[step : step + 2]
        latents = latents + (end - start) * guided
        yield latents


@pytest.mark.parametrize("num_references", [0, 2])
@torch.inference_mode()
def test_the_loop_equals_one_that_keeps_nothing(stages, num_references):
    photos = [Image.linear_gradient("L").rotate(90 * turn).convert("RGB") for turn in (0, 1)]
    picture = make_picture(stages, source_images=tuple(photos[:num_references]))
    stage = stages.decode()
    references = encode_references(stage, picture)
    assert (references is not None) == bool(num_references)
    naive = list(naive_denoise(stage, picture))
    fast = list(denoise(stage, [picture], references))
    assert len(fast) == 4
    for one, other in zip(fast, naive, strict=True):
        assert (one - other).abs().max() < 2e-5
    # what was kept is kept as it was: a second picture finds it
    again = list(denoise(stage, [picture], references))
    assert torch.equal(again[-1], fast[-1])
