"""Architectures out of config.json: read whole, or refused with the file and the key."""

import copy
import json

import pytest
from transformers import GlmImageConfig

from glmimage.errors import CheckpointInvalid
from glmimage.model.config import DitConfig, PriorConfig, VisionConfig, VQConfig


@pytest.fixture
def prior_json(tiny_dir):
    return json.loads((tiny_dir / "vision_language_encoder" / "config.json").read_text())


@pytest.fixture
def dit_json(tiny_dir):
    return json.loads((tiny_dir / "transformer" / "config.json").read_text())


def changed(data, path, value):
    data = copy.deepcopy(data)
    *outer, key = path.split(".")
    inner = data
    for name in outer:
        inner = inner[name]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return data


def test_the_published_architecture():
    """transformers' defaults are the real model's, but for what its rope_parameters say."""
    data = json.loads(GlmImageConfig().to_json_string(use_diff=False))
    data["text_config"]["rope_parameters"] |= {
        "mrope_section": [8, 12, 12],
        "partial_rotary_factor": 0.5,
    }
    prior, vision, vq = (kind.from_dict(data) for kind in (PriorConfig, VisionConfig, VQConfig))
    assert (prior.num_layers, prior.hidden_size, prior.intermediate_size) == (40, 4096, 13696)
    assert (prior.num_heads, prior.num_kv_heads, prior.head_dim) == (32, 2, 128)
    assert (prior.vocab_size, prior.vision_vocab_size, prior.rotary_dim) == (168064, 16512, 64)
    assert (prior.mrope_section, prior.rope_theta) == ((8, 12, 12), 10000.0)
    assert (prior.image_token_id, prior.image_start_token_id) == (167855, 16384)
    assert (vision.num_layers, vision.hidden_size, vision.position_grid) == (40, 1536, 128)
    assert (vq.num_embeddings, vq.embed_dim, vq.latent_channels) == (16384, 2048, 1536)


def test_rope_settings_may_stand_beside_an_older_rope_scaling(prior_json):
    new = PriorConfig.from_dict(prior_json)
    rope = prior_json["text_config"].pop("rope_parameters")
    prior_json["text_config"] |= {
        "rope_theta": rope["rope_theta"],
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "rope_scaling": {"rope_type": "default", "mrope_section": rope["mrope_section"]},
    }
    assert PriorConfig.from_dict(prior_json) == new


def test_bookkeeping_and_absent_features_are_passed_over(prior_json, dit_json):
    plain = PriorConfig.from_dict(prior_json)
    for extra in ({"dtype": "bfloat16"}, {"_name_or_path": "x"}, {"new_feature": None}, {"qk": 0}):
        assert PriorConfig.from_dict(changed_text(prior_json, extra)) == plain
    assert DitConfig.from_dict(dit_json | {"sample_size": 128}) == DitConfig.from_dict(dit_json)


def changed_text(data, extra):
    return data | {"text_config": data["text_config"] | extra}


WRONG = [
    ("text_config", ..., "text_config: the key is missing"),
    ("text_config", 3, "text_config: expected an object, found 3"),
    ("text_config.hidden_size", ..., "text_config.hidden_size: the key is missing"),
    ("text_config.hidden_size", "128", "text_config.hidden_size: expected a whole number"),
    ("text_config.hidden_size", 0, "text_config.hidden_size: must not be 0"),
    ("text_config.hidden_act", "gelu", "text_config.hidden_act: 'gelu' is not supported"),
    ("text_config.attention_bias", 1, "text_config.attention_bias: expected true or false"),
    ("text_config.num_key_value_heads", 3, "num_key_value_heads: 3 does not divide 4 heads"),
    ("text_config.qk_norm", True, "text_config.qk_norm: the key is unknown"),
    ("text_config.rms_norm_eps", -1, "text_config.rms_norm_eps: expected a positive number"),
    ("text_config.rope_parameters.rope_type", "yarn", "rope_type: 'yarn' is not supported"),
    ("text_config.rope_parameters.mrope_section", [2, 3], "must sum to half of the 16 rotated"),
    ("text_config.rope_parameters.mrope_section", "8", "expected a list of whole numbers"),
    ("text_config.rope_parameters.factor", 2.0, "rope_parameters.factor: the key is unknown"),
    ("image_token_id", ..., "image_token_id: the key is missing"),
    ("model_type", "glm4v", "model_type: 'glm4v' is not supported, only 'glm_image'"),
    ("tie_word_embeddings", True, "tie_word_embeddings: True is not supported"),
    ("audio_config", {"x": 1}, "audio_config: the key is unknown"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_what_is_wrong_is_named(prior_json, path, value, said):
    with pytest.raises(CheckpointInvalid) as caught:
        PriorConfig.from_dict(changed(prior_json, path, value), "some/config.json")
    assert str(caught.value).startswith("some/config.json: ")
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        (VisionConfig, "vision_config.depth", ...),
        (VisionConfig, "vision_config.spatial_merge_size", 2),
        (VisionConfig, "vision_config.hidden_act", "silu"),
        (VisionConfig, "vision_config.window_size", 8),
        (VQConfig, "vq_config.num_embeddings", 1.5),
        (VQConfig, "vq_config.embed_dim", ...),
    ],
)
def test_vision_settings_that_are_wrong(prior_json, kind, path, value):
    with pytest.raises(CheckpointInvalid, match=path.replace(".", r"\.")):
        kind.from_dict(changed(prior_json, path, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [("_class_name", "FluxTransformer2DModel"), ("num_layers", ...), ("guidance_embeds", True)],
)
def test_transformer_settings_that_are_wrong(dit_json, key, value):
    with pytest.raises(CheckpointInvalid, match=rf"transformer/config\.json: {key}: "):
        DitConfig.from_dict(changed(dit_json, key, value))


def test_a_file_that_holds_no_object():
    with pytest.raises(CheckpointInvalid, match="the file: expected an object, found"):
        DitConfig.from_dict([1, 2])
