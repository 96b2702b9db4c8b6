"""The toy checkpoint: complete, small, repeatable, and nowhere trivial."""

import json

import pytest
import torch
from safetensors.torch import load_file

from glmimage.loading.tiny import SPECIAL_TOKENS, make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny"), seed=0)


def tensors_of(folder):
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_every_component_is_there_and_small(tiny):
    index = json.loads((tiny / "model_index.json").read_text())
    components = [name for name in index if not name.startswith("_")]
    assert len(components) == 7
    assert all(any((tiny / name).iterdir()) for name in components)
    assert sum(file.stat().st_size for file in tiny.rglob("*")) < 5_000_000


def test_two_components_are_sharded_and_two_are_not(tiny):
    shards = {
        folder.name: len(list(folder.glob("*.safetensors")))
        for folder in tiny.iterdir()
        if folder.is_dir()
    }
    assert shards["vision_language_encoder"] == 3
    assert shards["transformer"] == 2
    assert shards["vae"] == shards["text_encoder"] == 1


def test_no_tensor_is_trivial(tiny):
    for name, tensor in tensors_of(tiny).items():
        assert tensor.std() > 1e-3, name
        assert (tensor != 0).all(), name


def test_seed_decides_every_tensor_and_global_random_state_is_left_alone(tiny, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    again = tensors_of(make_tiny(tmp_path / "again", seed=0))
    assert torch.equal(torch.rand(4), expected)
    other = tensors_of(make_tiny(tmp_path / "other", seed=1))
    first = tensors_of(tiny)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_tokenizer_is_byte_level_and_knows_the_special_tokens(tiny):
    from transformers import GlmImageProcessor

    tokenizer = GlmImageProcessor.from_pretrained(tiny / "processor").tokenizer
    text = "Ünï 'cödé' 漢字 😀\n"
    ids = tokenizer(text).input_ids
    assert ids == [272 + byte for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    for token, token_id in SPECIAL_TOKENS.items():
        assert tokenizer(token).input_ids == [token_id]
