"""The prior and the tokenizer of the shipped nano checkpoint, against transformers."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GlmImageForConditionalGeneration

from glmimage.errors import ModelNotFound
from glmimage.loading.checkpoint import Checkpoint, resolve_model
from glmimage.model.prior import KVCache
from glmimage.model.sampling import SamplingConfig, sample
from glmimage.prompt import fill_sources

pytestmark = pytest.mark.nano


@pytest.fixture(scope="module")
def path():
    try:
        return resolve_model("nano")
    except ModelNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint(path):
    return Checkpoint(path)


@pytest.fixture(scope="module")
def encoder(path):
    return GlmImageForConditionalGeneration.from_pretrained(
        path / "vision_language_encoder", dtype=torch.float32
    ).eval()


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore")
def test_logits_and_greedy_tokens(checkpoint, encoder):
    prior, sampling = (
        checkpoint.load_prior(),
        SamplingConfig.from_dict(checkpoint.generation_config),
    )
    prompts = checkpoint.load_prompt()
    inputs = prompts.encode("A poster with the headline 'OPEN' in bold", 64, 96)
    suppress = sampling.suppress_mask(
        prior.config.vision_vocab_size, checkpoint.vq_config.num_embeddings
    )
    cache = KVCache(prior.config, 1, inputs.max_length)
    hidden = prior(prior.embed(inputs.input_ids[None]), inputs.position_ids[None], cache)
    logits = [prior.logits(hidden[:, -1])]
    tokens = []
    for index in range(inputs.num_tokens):
        tokens.append(sample(logits[-1].masked_fill(suppress, -torch.inf), [0.0], [1.0], 0, [0.0]))
        if index + 1 < inputs.num_tokens:
            position = inputs.decode_position_ids[None, :, index, None]
            logits.append(prior.logits(prior(prior.embed(tokens[-1][None]), position, cache)[:, 0]))
    theirs = encoder.generate(
        inputs.input_ids[None],
        attention_mask=torch.ones_like(inputs.input_ids)[None],
        image_grid_thw=torch.tensor([(1, *inputs.large_grid), (1, *inputs.small_grid)]),
        images_per_sample=torch.tensor([2]),
        max_new_tokens=inputs.num_tokens,
        do_sample=False,
        suppress_tokens=suppress.nonzero().flatten().tolist(),
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(torch.cat(tokens), theirs.sequences[0, len(inputs.input_ids) :])
    ours, theirs = torch.cat(logits), torch.cat(theirs.logits)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max()  # some 16 roundings of float32


@torch.inference_mode()
def test_tokens_of_references(checkpoint, encoder):
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        for size in [(512, 512), (900, 400)]
    ]
    inputs = checkpoint.load_prompt().encode("x", 512, 512, images)
    found = checkpoint.load_vision()(inputs.pixel_values, inputs.source_grid_thw)
    features = encoder.model.get_image_features(
        inputs.pixel_values, inputs.source_grid_thw, return_dict=True
    ).pooler_output
    assert torch.equal(torch.cat(found), encoder.model.get_image_tokens(features))
    assert not (fill_sources(inputs, found).input_ids == inputs.image_token_id).any()
