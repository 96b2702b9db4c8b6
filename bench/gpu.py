"""Measure the engine at the published model's full size with random weights: no download needed.

    python bench/gpu.py                 one CUDA GPU, under ten minutes; see bench/gpu.sh
    python bench/gpu.py --scale tiny    a dry run on any machine

Random weights compute what trained ones do, and paint noise. Ours runs first and is released, then
diffusers' GlmImagePipeline of the same size; both in bfloat16 on CUDA, in float32 on a CPU. The
last line of the output is the JSON that is also written to bench/results/.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import infer
import torch
from ceiling import machine_ceiling
from sides import paint_together
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
    """Build both stages: those of the toy checkpoint, or of the published sizes."""
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
    text = FULL["text"]
    sizes = PriorConfig(
        text["vocab_size"], text["vision_vocab_size"], text["hidden_size"],
        text["intermediate_size"], text["num_hidden_layers"], text["num_attention_heads"],
        text["num_key_value_heads"], 128, 1e-5, True, 10000.0, 64, (8, 12, 12),
        toy.image_token_id, toy.image_start_token_id, toy.image_end_token_id,
    )  # fmt: skip
    with torch.device("meta"):
        prior, dit = PriorModel(sizes), DiT(DitConfig(2, 16, 16, **FULL["dit"]))
        encoder, autoencoder = full_glyph(), full_vae()
    plan = plan_memory(GLM_IMAGE, free_bytes(device))
    prior_stage = PriorStage(
        prompt=checkpoint.load_prompt(),
        vision=checkpoint.load_vision(device, dtype),
        prior=materialise(prior, device, dtype),
        sampling=checkpoint_sampling(checkpoint),
        suppress=(torch.arange(text["vision_vocab_size"]) >= 16384).to(device),
        device=device,
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


def full_glyph() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=384, feed_forward_proj="gated-gelu", **FULL["glyph"]))


def full_vae() -> nn.Module:
    from diffusers.models import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=1024, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16,
        **FULL["vae"],
    )  # fmt: skip


def upstream_pipeline(folder: Path, scale: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Build diffusers' pipeline at the same size, on the toy checkpoint's texts."""
    from diffusers import GlmImagePipeline

    pipe = GlmImagePipeline.from_pretrained(folder, dtype=dtype)
    if scale == "full":
        from diffusers.models import GlmImageTransformer2DModel
        from transformers import GlmImageForConditionalGeneration

        config = pipe.vision_language_encoder.config
        for name, value in FULL["text"].items():
            setattr(config.text_config, name, value)
        config.text_config.rope_parameters |= {"rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
        # not on the meta device: transformers computes its rotary frequencies when it is built
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(device):
            networks = {
                "vision_language_encoder": GlmImageForConditionalGeneration(config),
                "transformer": GlmImageTransformer2DModel(**FULL["dit"]),
                "text_encoder": full_glyph(),
                "vae": full_vae(),
            }
        torch.set_default_dtype(before)
        generation = pipe.vision_language_encoder.generation_config
        for name, network in networks.items():
            setattr(pipe, name, randomise(network))
        generation.suppress_tokens = list(range(16384, 16512))
        pipe.vision_language_encoder.generation_config = generation
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def run_ours(stages: Any, size: int, steps: int, requests: int) -> dict[str, float]:
    """Make `requests` pictures that wait at once; seconds a picture."""
    from glmimage import GenerationRequest

    return paint_together(
        stages,
        [
            GenerationRequest(infer.PROMPT, size, size, seed=seed, num_inference_steps=steps)
            for seed in range(requests)
        ],
    )


def peak_bytes(device: torch.device) -> float:
    return infer.peak_memory(torch, device)


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.scale == "full" and device.type != "cuda":
        raise SystemExit("The full size needs a CUDA GPU; use --scale tiny for a dry run.")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    until = time.monotonic() + 60 * options.minutes
    size, steps = (1024, options.steps) if options.scale == "full" else (512, 3)
    ceiling = machine_ceiling(device, dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = write_checkpoint_folder(Path(name), "toy")
        stages = our_stages(folder, options.scale, device, dtype)
        cases = {1: [run_ours(stages, size, steps, 1) for _ in range(3)][1:]}
        cases[16] = [run_ours(stages, size, steps, 16)]
        ours_peak, plan = peak_bytes(device), stages.plan
        del stages
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        side = infer.Upstream.of(upstream_pipeline(folder, options.scale, device, dtype), device)
        case = {"width": size, "height": size, "steps": steps, "guidance": 1.5, "seed": 0}
        case |= {"references": 0, "upstream": 1}
        runs = [side.run(case)]
        if time.monotonic() < until:
            runs = [side.run(case)]
        upstream_peak = peak_bytes(device)
    tokens = (size // 32) ** 2 + 256
    rows = []
    for requests, taken in cases.items():
        name = f"{size}x{size}, {steps} steps" + (f", {requests} at once" if requests > 1 else "")
        for metric, key in list(infer.METRICS.items())[:4]:
            ours = statistics.median(run[key] for run in taken)
            theirs = statistics.median(run[key] for run in runs)
            rows.append(row(name, metric, ours, theirs))
        prior = statistics.median(run["prior_s"] for run in taken)
        theirs = statistics.median(run["prior_s"] for run in runs)
        rows.append(row(name, "ms a prior token", 1e3 * prior / tokens, 1e3 * theirs / tokens))
        rows.append(row(name, "peak memory", ours_peak, upstream_peak))
    given = SimpleNamespace(model=f"{options.scale} size, random weights", device=None)
    given.threads, given.clock, given.guidance, given.repeats, given.warmup = 0, "wall", 1.5, 2, 1
    name = str(dtype).removeprefix("torch.")
    card = infer.card(given, {"ours": name, "upstream": name})
    card |= {"ceiling": ceiling, "plan": plan.why or plan.mode}
    infer.write_result({"card": card, "rows": rows}, f"gpu-{options.scale}")


def row(case: str, metric: str, ours: float, upstream: float) -> dict[str, Any]:
    ratio = round(upstream / ours, 3)
    print(f"{case:40} {metric:18} {ours:12.3f} {upstream:12.3f} {ratio:7.2f}x", file=sys.stderr)
    found: dict[str, Any] = {"case": case, "metric": metric, "ours": round(ours, 4)}
    return found | {"upstream": round(upstream, 4), "ratio": ratio}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=8.0, help="no further run begins then")
    return parser.parse_args()


if __name__ == "__main__":
    main()
