"""Reference images to prior tokens: those of transformers, whatever stands beside them."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glmimage.errors import CheckpointInvalid
from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.config import VQConfig
from glmimage.model.vision import VISION_IGNORED, VISION_TENSORS, VisionTokenizer
from glmimage.prompt import PromptEncoder

SIZES = {  # (width, height) of the references
    "square": [(512, 512)],
    "wide": [(1200, 300)],
    "tall": [(333, 1000)],
    "large": [(2600, 1500)],
    "four": [(512, 512), (700, 300), (300, 1200), (640, 520)],
    "four alike": [(576, 544)] * 4,
}


@pytest.fixture(scope="module", autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def encoder(reference):
    return reference.vision_language_encoder.eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return Checkpoint(tiny_dir).load_vision()


def pictures(sizes):
    rng = np.random.default_rng(4)
    # blobs of about a patch: neighbouring patches differ, unlike in noise, where all look alike
    coarse = [rng.integers(0, 256, (h // 40, w // 40, 3), dtype=np.uint8) for w, h in sizes]
    return [Image.fromarray(c).resize(s, Image.BICUBIC) for c, s in zip(coarse, sizes, strict=True)]


def assert_same_codes(tokenizer, features, found, expected):
    """Fail unless two codings agree; between codes equally near, to 1e-5, rounding decides."""
    rows = torch.cat([feature.flatten(1).T for feature in features])
    latents = F.normalize(
        F.linear(rows, tokenizer.quant_conv.weight.flatten(1), tokenizer.quant_conv.bias), dim=-1
    )
    codes = F.normalize(tokenizer.codebook.weight, dim=-1)
    cosines = [(latents * codes[ids]).sum(-1) for ids in (found, expected)]
    assert (cosines[0] - cosines[1]).abs().max() < 1e-5
    assert (found == expected).float().mean() > 0.99


def test_the_same_tokens_as_the_reference(reference, encoder, tokenizer):
    prompts = PromptEncoder(reference.processor)
    for name, sizes in SIZES.items():
        inputs = prompts.encode("as a watercolour", 64, 64, pictures(sizes))
        grids = inputs.source_grid_thw
        features = encoder.model.get_image_features(
            inputs.pixel_values, grids, return_dict=True
        ).pooler_output
        expected = encoder.model.get_image_tokens(features)
        found = tokenizer(inputs.pixel_values, grids)
        assert [len(ids) for ids in found] == [h * w for h, w in inputs.source_grids], name
        assert_same_codes(tokenizer, features, torch.cat(found), expected)
        assert len(expected.unique()) > 40, name

        patches = inputs.pixel_values.split(grids.prod(-1).tolist())
        for part, grid, feature in zip(patches, inputs.source_grids, features, strict=True):
            ours = tokenizer.features(part, *grid)
            assert (ours - feature.flatten(1).T).abs().max() < 1e-4, name


def test_an_image_never_sees_another(reference, tokenizer):
    images = pictures(SIZES["four"])
    inputs = PromptEncoder(reference.processor).encode("x", 64, 64, images)
    together = tokenizer(inputs.pixel_values, inputs.source_grid_thw)
    patches = inputs.pixel_values.split([len(ids) for ids in together])
    for ids, part, grid in zip(together, patches, inputs.source_grid_thw, strict=True):
        assert torch.equal(tokenizer(part, grid[None])[0], ids)


def test_rows_and_columns_are_not_interchanged(tokenizer):
    """The stretched positions of a wide grid differ along its columns faster than its rows do."""
    positions = tokenizer.positions(8, 32)
    assert positions.shape == (8 * 32, tokenizer.config.hidden_size)
    assert torch.equal(
        tokenizer.positions(16, 16), tokenizer.position_embedding.weight
    )  # the learned square itself
    square = tokenizer.position_embedding.weight.unflatten(0, (16, 16))
    # between the 1st and 2nd, the 3rd and 4th ... learned row; a quarter before the 1st column
    rows = (square[0::2] + square[1::2]) / 2
    assert torch.allclose(positions.unflatten(0, (8, 32))[:, 0], rows[:, 0], atol=1e-5)


def test_nearest_by_angle_not_by_length(tokenizer):
    """A code of any length is found by its direction, and every code is found from itself."""
    weight = tokenizer.quant_conv.weight.flatten(1)
    codes = tokenizer.codebook.weight
    # features that the convolution turns into exactly these codes, at other lengths
    stretched = codes * torch.linspace(0.1, 30, len(codes))[:, None]
    features = torch.linalg.lstsq(weight, (stretched - tokenizer.quant_conv.bias).T).solution.T
    assert torch.equal(tokenizer.quantise(features), torch.arange(len(codes)))


def test_the_table_names_every_tensor_once(encoder, tokenizer):
    theirs = {n for n in encoder.state_dict() if n.startswith(("model.visual.", "model.vqmodel."))}
    expanded = list(VISION_IGNORED)
    for sources in VISION_TENSORS.values():
        for source in sources:
            layers = range(tokenizer.config.num_layers) if "{i}" in source else [0]
            expanded += [source.replace("{i}", str(layer)) for layer in layers]
    assert sorted(expanded) == sorted(theirs)
    ours = {re.sub(r"layers\.\d+\.", "layers.{i}.", name) for name in tokenizer.state_dict()}
    assert ours == set(VISION_TENSORS)


def test_an_encoder_and_a_quantiser_that_do_not_fit(tokenizer):
    vq = VQConfig(embed_dim=8, num_embeddings=16, latent_channels=65)
    with pytest.raises(
        CheckpointInvalid, match=r"hidden_size 64 and vq_config\.latent_channels 65"
    ):
        VisionTokenizer(tokenizer.config, vq)
