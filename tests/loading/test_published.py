"""The published zai-org/GLM-Image fits these networks: configs, tensor names, shapes.

The networks are built on the meta device, at full size and without a byte of weights.
"""

import pytest
import torch

from glmimage.loading.tensors import StoredTensor, check_nothing_left, check_shapes, parts_of
from glmimage.model.config import DitConfig, PriorConfig, VisionConfig, VQConfig
from glmimage.model.dit import DIT_TENSORS, DiT
from glmimage.model.prior import PRIOR_TENSORS, PriorModel
from glmimage.model.vision import VISION_IGNORED, VISION_TENSORS, VisionTokenizer

# vision_language_encoder/config.json and transformer/config.json as published
PRIOR_JSON = {
    "architectures": ["GlmImageForConditionalGeneration"],
    "image_start_token_id": 16384,
    "image_end_token_id": 16385,
    "image_token_id": 167855,
    "model_type": "glm_image",
    "text_config": {
        "attention_dropout": 0.0,
        "eos_token_id": 16385,
        "pad_token_id": 167841,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 13696,
        "max_position_embeddings": 131072,
        "model_type": "glm_image_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "dtype": "bfloat16",
        "rope_parameters": {
            "rope_theta": 10000,
            "rope_type": "default",
            "mrope_section": [8, 12, 12],
            "partial_rotary_factor": 0.5,
        },
        "use_cache": True,
        "vision_vocab_size": 16512,
        "vocab_size": 168064,
    },
    "transformers_version": "5.0.0.dev0",
    "vision_config": {
        "attention_bias": True,
        "attention_dropout": 0.0,
        "depth": 40,
        "hidden_act": "gelu",
        "hidden_size": 1536,
        "image_size": 2048,
        "in_channels": 3,
        "intermediate_size": 6144,
        "layer_norm_eps": 1e-06,
        "model_type": "glm_image_vision",
        "num_heads": 16,
        "patch_size": 16,
    },
    "vq_config": {
        "embed_dim": 2048,
        "in_channels": 3,
        "initializer_range": 0.02,
        "latent_channels": 1536,
        "num_embeddings": 16384,
    },
}
DIT_JSON = {
    "_class_name": "GlmImageTransformer2DModel",
    "_diffusers_version": "0.37.0.dev0",
    "attention_head_dim": 128,
    "condition_dim": 256,
    "in_channels": 16,
    "num_attention_heads": 32,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": 2,
    "prior_vq_quantizer_codebook_size": 16384,
    "text_embed_dim": 1472,
    "time_embed_dim": 512,
}


def stored_like(model, tmp_path):
    return {
        name: StoredTensor(tmp_path / "model.safetensors", "BF16", tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }


def billions(model):
    return sum(parameter.numel() for parameter in model.parameters()) / 1e9


def test_prior_and_vision_take_every_tensor(tmp_path):
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    with torch.device("meta"):
        published = GlmImageForConditionalGeneration(GlmImageConfig(**PRIOR_JSON))
        vision_config = VisionConfig.from_dict(PRIOR_JSON)
        vision = VisionTokenizer(vision_config, VQConfig.from_dict(PRIOR_JSON))
        prior = PriorModel(PriorConfig.from_dict(PRIOR_JSON))
    stored = stored_like(published, tmp_path)
    used = set()
    for model, table in ((prior, PRIOR_TENSORS), (vision, VISION_TENSORS)):
        parts = parts_of(model, table, stored)
        check_shapes("vision_language_encoder", model, parts, stored)
        used |= {name for names in parts.values() for name in names}
    check_nothing_left("vision_language_encoder", stored, used, VISION_IGNORED)
    assert billions(prior) == pytest.approx(8.9, abs=0.2)
    assert billions(vision) == pytest.approx(1.2, abs=0.1)


def test_decoder_takes_every_tensor(tmp_path):
    from diffusers import GlmImageTransformer2DModel

    with torch.device("meta"):
        published = GlmImageTransformer2DModel.from_config(DIT_JSON)
        dit = DiT(DitConfig.from_dict(DIT_JSON))
    stored = stored_like(published, tmp_path)
    parts = parts_of(dit, DIT_TENSORS, stored)
    check_shapes("transformer", dit, parts, stored)
    check_nothing_left(
        "transformer", stored, {name for names in parts.values() for name in names}, ()
    )
    assert billions(dit) == pytest.approx(7.1, abs=0.2)
