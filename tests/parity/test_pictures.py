"""Final pictures from the same prior and noise, ours against diffusers, within 1/255 a pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.errors import ModelNotFound
from glmimage.model.sampling import RandomStream
from glmimage.picture import make_pictures
from glmimage.pipeline import encode_prompts, generate, upsample_prior
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PictureReady, PriorReady


def photo(width, height, seed):
    """Draw blobs of colour: smooth enough to survive a resize, different everywhere."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


ONE = (photo(512, 640, 1),)
FOUR = (photo(512, 512, 2), photo(640, 512, 3), photo(512, 768, 4), photo(1024, 512, 5))
REQUESTS = {
    "text to image": GenerationRequest("A sign 'OPEN' and \"no\"", 512, 512, 3, 1.5, seed=1),
    "not square": GenerationRequest("A wide street", 672, 512, 2, 3.0, seed=2),
    "tall": GenerationRequest("A tower that says “up”", 512, 768, 2, 1.5, seed=3),
    "no guidance": GenerationRequest("A sign 'OPEN'", 512, 512, 2, 1.0, seed=4),
    "one reference": GenerationRequest("Make it 'red'", 512, 512, 2, 1.5, 5, 1, ONE),
    "four references": GenerationRequest("Mix 'them'", 544, 512, 2, 1.5, 6, 1, FOUR),
    "one reference, no guidance": GenerationRequest("Paint", 512, 544, 2, 1.0, 7, 1, ONE),
}


@pytest.fixture(scope="module")
def stages(tiny_dir):
    return Stages.load(str(tiny_dir), "cpu", "float32")


@pytest.fixture(scope="module")
def nano_stages():
    try:
        return Stages.load("nano", "cpu", "float32")
    except ModelNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def nano_reference(nano_stages):
    from diffusers import GlmImagePipeline

    pipeline = GlmImagePipeline.from_pretrained(nano_stages.checkpoint.path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_any_prior(name, request):
    """Make the request's picture with random tokens as its prior, as if it had been written."""
    (picture,) = make_pictures(name, request)
    grid = request.height // 32, request.width // 32
    generator = torch.Generator().manual_seed(request.seed)
    ids = torch.randint(0, 256, (grid[0] * grid[1],), generator=generator)
    picture.prior = PriorReady(*picture.key, grid, tuple(ids.tolist()))
    return picture


@torch.no_grad()
def reference_picture(reference, stages, picture):
    """Paint with diffusers, from the prior and the noise that ours paints from."""
    request, prior = picture.request, picture.prior
    shape = (1, 16, request.height // 8, request.width // 8)
    sources, inputs = {}, None
    if request.source_images:
        inputs = [list(request.source_images)]
        encode_prompts(stages.prior(), [picture])
        grids = picture.inputs.source_grids
        upsampled = [
            upsample_prior(ids, grid) for ids, grid in zip(picture.source_ids, grids, strict=True)
        ]
        sources = {
            "prior_token_image_ids": [torch.cat(upsampled)],
            "source_image_grid_thw": [torch.tensor([[1, 2 * h, 2 * w] for h, w in grids])],
        }
    result = reference(
        request.prompt,
        image=inputs,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        latents=RandomStream(picture.seed).noise(shape[1:])[None],
        prior_token_ids=upsample_prior(torch.tensor([prior.prior_token_ids]), prior.large_grid),
        **sources,
    )
    return result.images[0]


def largest_difference(ours, theirs):
    assert ours.size == theirs.size
    assert ours.mode == theirs.mode == "RGB"
    return np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max()


def compare(reference, stages, requests):
    """Make all requests in one batch, and each with the reference; return their pictures."""
    pictures = [with_any_prior(name, request) for name, request in requests.items()]
    events = list(generate(stages, pictures))
    ours = {e.request_id: e.image for e in events if isinstance(e, PictureReady)}
    assert ours.keys() == requests.keys()
    differences = {
        picture.request_id: largest_difference(
            ours[picture.request_id], reference_picture(reference, stages, picture)
        )
        for picture in pictures
    }
    assert max(differences.values()) <= 1, differences
    # a random network may paint one flat colour; then the comparison would show nothing
    assert all(np.asarray(image).std() > 8 for image in ours.values())


def test_a_batch_of_mixed_requests_equals_the_reference_one_by_one(reference, stages):
    compare(reference, stages, REQUESTS)


@pytest.mark.nano
def test_nano_equals_the_reference(nano_reference, nano_stages):
    names = "text to image", "one reference", "one reference, no guidance"
    compare(nano_reference, nano_stages, {name: REQUESTS[name] for name in names})
