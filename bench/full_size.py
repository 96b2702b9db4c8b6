"""Both sides at the published model's sizes, with random weights; the texts are the toy's.

A network with random weights computes what a trained one does, in the same time.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sides import PROMPT
from torch import nn

# the published config files, as far as the sizes of the networks go
FULL: dict[str, dict[str, Any]] = {
    "text": {
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "vision_vocab_size": 16512,
        "vocab_size": 168064,
        "eos_token_id": 16385,
    },
    "dit": {"num_layers": 30, "num_attention_heads": 32, "attention_head_dim": 128}
    | {"text_embed_dim": 1472, "time_embed_dim": 512, "condition_dim": 256}
    | {"prior_vq_quantizer_codebook_size": 16384},
    "glyph": {"d_model": 1472, "d_kv": 64, "d_ff": 3584, "num_layers": 12, "num_heads": 6},
    "vae": {"block_out_channels": (128, 256, 512, 1024), "layers_per_block": 3}
    | {"norm_num_groups": 32},
}
# every head as large as in the published ones, all else small
MIDDLE: dict[str, dict[str, Any]] = {
    "text": FULL["text"]
    | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3}
    | {"num_attention_heads": 4},
    "dit": FULL["dit"] | {"num_layers": 3, "num_attention_heads": 4},
    "glyph": FULL["glyph"] | {"num_layers": 2},
    "vae": FULL["vae"] | {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
}
SIZES = {"full": FULL, "middle": MIDDLE}


def write_checkpoint_folder(root: Path, scale: str) -> Path:
    """Write the toy checkpoint; the networks of a full-size run take only its texts from it."""
    from glmimage.loading.tiny import make_tiny

    return make_tiny(root / scale)


def materialise(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Bring a network that was built on the meta device to the device, with random weights."""
    return randomise(model.to(dtype).to_empty(device=device))


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give a network random weights that keep the variance."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1.0)
    return model.eval()


def our_stages(folder: Path, scale: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Build both stages: those of the toy checkpoint, or of the scale's sizes."""
    from glmimage.loading.checkpoint import Checkpoint
    from glmimage.memory import GLM_IMAGE, Dtypes, free_bytes, plan_memory
    from glmimage.model.config import DitConfig, PriorConfig
    from glmimage.model.dit import DiT
    from glmimage.model.glyph import GlyphEncoder
    from glmimage.model.prior import PriorModel
    from glmimage.model.vae import VAE
    from glmimage.stages import DecodeStage, PriorStage, Stages

    if scale == "tiny":
        return Stages.load(str(folder), str(device), dtype)
    checkpoint = Checkpoint(folder)
    toy = checkpoint.prior_config
    networks = SIZES[scale]
    text = networks["text"]
    sizes = PriorConfig(
        text["vocab_size"], text["vision_vocab_size"], text["hidden_size"],
        text["intermediate_size"], text["num_hidden_layers"], text["num_attention_heads"],
        text["num_key_value_heads"], 128, 1e-5, True, 10000.0, 64, (8, 12, 12),
        toy.image_token_id, toy.image_start_token_id, toy.image_end_token_id,
    )  # fmt: skip
    with torch.device("meta"):
        prior, dit = PriorModel(sizes), DiT(DitConfig(2, 16, 16, **networks["dit"]))
        encoder, autoencoder = new_glyph(networks), new_vae(networks)
    plan = plan_memory(GLM_IMAGE, free_bytes(device))
    prior_stage = PriorStage(
        prompt=checkpoint.load_prompt(),
        vision=checkpoint.load_vision(device, dtype),
        prior=materialise(prior, device, dtype),
        sampling=checkpoint_sampling(checkpoint),
        suppress=(torch.arange(text["vision_vocab_size"]) >= 16384).to(device),
        device=device,
        graphs=device.type == "cuda",
    )
    vae = VAE(materialise(autoencoder, device, dtype)).eval()
    vae.autoencoder.to(memory_format=torch.channels_last)
    tokenizer = checkpoint.load_glyph().tokenizer
    decode_stage = DecodeStage(
        glyph=GlyphEncoder(materialise(encoder, device, dtype), tokenizer).eval(),
        dit=materialise(dit, device, dtype),
        vae=vae,
        scheduler_config=checkpoint.scheduler_config,
        vae_pixels=plan.vae_pixels,
        device=device,
    )
    return SimpleNamespace(
        prior=lambda: prior_stage, decode=lambda: decode_stage, plan=plan, device=device,
        dtypes=Dtypes(dtype, dtype),
    )  # fmt: skip


def checkpoint_sampling(checkpoint: Any) -> Any:
    from glmimage.model.sampling import SamplingConfig

    return SamplingConfig.from_dict(checkpoint.generation_config)


def new_glyph(networks: dict[str, Any]) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=384, feed_forward_proj="gated-gelu", **networks["glyph"])
    )


def new_vae(networks: dict[str, Any]) -> nn.Module:
    from diffusers.models import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=1024, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16,
        **networks["vae"],
    )  # fmt: skip


def upstream_pipeline(folder: Path, scale: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Build diffusers' pipeline at the same size, on the toy checkpoint's texts."""
    from diffusers import GlmImagePipeline

    pipe = GlmImagePipeline.from_pretrained(folder, dtype=dtype)
    if scale in SIZES:
        from diffusers.models import GlmImageTransformer2DModel
        from transformers import GlmImageForConditionalGeneration

        sizes = SIZES[scale]
        config = pipe.vision_language_encoder.config
        for name, value in sizes["text"].items():
            setattr(config.text_config, name, value)
        config.text_config.rope_parameters |= {"rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
        # not on the meta device: transformers computes its rotary frequencies when it is built
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(device):
            networks = {
                "vision_language_encoder": GlmImageForConditionalGeneration(config),
                "transformer": GlmImageTransformer2DModel(**sizes["dit"]),
                "text_encoder": new_glyph(sizes),
                "vae": new_vae(sizes),
            }
        torch.set_default_dtype(before)
        generation = pipe.vision_language_encoder.generation_config
        for name, network in networks.items():
            setattr(pipe, name, randomise(network))
        # the toy's end marker is a code here, and would end a picture early
        generation.eos_token_id = sizes["text"]["eos_token_id"]
        generation.suppress_tokens = list(range(16384, sizes["text"]["vision_vocab_size"]))
        pipe.vision_language_encoder.generation_config = generation
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


class _EnoughTokens(Exception):
    pass


def few_tokens(pipe: Any, case: dict[str, Any], count: int) -> float:
    """Let diffusers' pipeline write the first tokens of a picture; return the seconds."""
    from glmimage.memory import synchronize

    encoder = pipe.vision_language_encoder
    generate = encoder.generate

    def generate_few(**options: Any) -> Any:
        generate(**options | {"max_new_tokens": count})
        raise _EnoughTokens

    started_s = time.perf_counter()
    encoder.generate = generate_few
    try:
        pipe.generate_prior_tokens(PROMPT, case["height"], case["width"])
    except _EnoughTokens:
        synchronize(encoder.device)
    finally:
        encoder.generate = generate
    return time.perf_counter() - started_s


def two_steps(pipe: Any, case: dict[str, Any], device: torch.device) -> float:
    """Let diffusers' pipeline paint two steps from an empty prior; return the seconds."""
    from glmimage.memory import synchronize

    height, width = case["height"], case["width"]
    started_s = time.perf_counter()
    pipe(
        PROMPT,
        height=height,
        width=width,
        num_inference_steps=2,
        guidance_scale=case["guidance"],
        prior_token_ids=torch.zeros(
            1, (height // 16) * (width // 16), dtype=torch.long, device=device
        ),
    )
    synchronize(device)
    return time.perf_counter() - started_s
