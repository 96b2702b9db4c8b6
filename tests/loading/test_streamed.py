"""Layers that are streamed compute what a network that is loaded as a whole computes."""

import pytest
import torch

from glmimage.loading.checkpoint import Checkpoint
from glmimage.loading.streamed import streamed_names
from glmimage.model.prior import KVCache
from glmimage.picture import make_pictures
from glmimage.pipeline import generate
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PictureReady


@pytest.fixture(scope="module")
def checkpoint(tiny_dir):
    return Checkpoint(tiny_dir)


def on_device(model):
    """Name the parameters that hold memory now."""
    return {name for name, p in model.named_parameters() if p.device.type != "meta"}


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_prior_is_the_same(checkpoint, kept, dtype):
    whole = checkpoint.load_prior(dtype=dtype)
    streamed = checkpoint.load_prior(dtype=dtype, kept_layers=kept)
    resting = on_device(streamed)
    embeds = whole.embed(torch.arange(12))[None]
    positions = torch.arange(12).expand(1, 3, 12)
    with torch.inference_mode():
        for _ in range(2):  # the second pass begins where the first one left the buffers
            results = []
            for model in (whole, streamed):
                cache = KVCache(model.config, 1, 32, dtype=dtype)
                hidden = model(embeds, positions, cache)
                results.append((hidden, cache.buffer))
            (expected, kept_there), (found, stored) = results
            assert torch.equal(expected, found)
            assert torch.equal(kept_there, stored)
    assert on_device(streamed) == resting
    assert resting == on_device(whole) - set(streamed_names(whole, kept))
    assert any(name.startswith("layers.2.") for name in on_device(whole) - resting)


def test_a_layer_that_fails_leaves_no_weights_behind(checkpoint):
    model = checkpoint.load_dit(kept_layers=1)
    resting = on_device(model)
    block = model.blocks[1]
    with pytest.raises(RuntimeError):
        block(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 6, 2, 3), None, None, None)
    assert on_device(model) == resting
    assert "blocks.1.modulation.weight" in resting
    assert "blocks.1.qkv.weight" not in resting


def test_pictures_are_the_same(tiny_dir):
    from PIL import Image

    reference = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    made = []
    for memory in ("resident", "layered"):
        stages = Stages.load(str(tiny_dir), "cpu", "float32", memory)
        assert stages.plan.mode == memory
        for sources in ((), (reference,)):
            request = GenerationRequest(
                "A 'B'", 512, 512, num_inference_steps=2, seed=5, source_images=sources
            )
            pictures = make_pictures("0", request)
            done = [e for e in generate(stages, pictures) if isinstance(e, PictureReady)]
            made.append((pictures[0].prior.prior_token_ids, done[0].image.tobytes()))
    assert made[:2] == made[2:]
