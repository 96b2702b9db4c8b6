"""Both sides at the published model's sizes, with random weights; the texts are the toy's.

A network with random weights computes what a trained one does, in the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sides import PROMPT, references
from torch import Tensor, nn

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
    "vision": {"depth": 40, "hidden_size": 1536, "num_heads": 16, "intermediate_size": 6144}
    | {"image_size": 2048},
    "vq": {"embed_dim": 2048, "num_embeddings": 16384, "latent_channels": 1536},
    "dit": {"num_layers": 30, "num_attention_heads": 32, "attention_head_dim": 128}
    | {"text_embed_dim": 1472, "time_embed_dim": 512, "condition_dim": 256}
    | {"prior_vq_quantizer_codebook_size": 16384},
    "glyph": {"d_model": 1472, "d_kv": 64, "d_ff": 3584, "num_layers": 12, "num_heads": 6},
    # 84 M weights, as the published file has about; the widths are those of a public port of it
    "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    | {"norm_num_groups": 32},
}
ROPE = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
# every head as large as in the published ones, all else small
MIDDLE: dict[str, dict[str, Any]] = {
    "text": FULL["text"]
    | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3}
    | {"num_attention_heads": 4},
    "vision": FULL["vision"]
    | {"depth": 2, "hidden_size": 192, "num_heads": 2}
    | {"intermediate_size": 384},
    "vq": FULL["vq"] | {"embed_dim": 64, "latent_channels": 192},
    "dit": FULL["dit"] | {"num_layers": 3, "num_attention_heads": 4},
    "glyph": FULL["glyph"] | {"num_layers": 2},
    "vae": FULL["vae"] | {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
}
SIZES = {"full": FULL, "middle": MIDDLE}


def write_checkpoint_folder(root: Path, scale: str) -> Path:
    """Write the toy checkpoint; the networks of a full-size run take only its texts from it."""
    from glmimage.loading.tiny import make_tiny

    return make_tiny(root / scale)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give a network random weights that keep the variance."""
    for name, parameter in model.named_parameters():
        _randomise(name, parameter)
    return model.eval()


@torch.no_grad()
def _randomise(name: str, values: Tensor) -> Tensor:
    if name.rpartition(".")[2] == "bias":
        return values.zero_()
    return values.normal_(std=values[0].numel() ** -0.5) if values.dim() > 1 else values.fill_(1.0)


class RandomCheckpoint:
    """Stand in for the folder of a published checkpoint: its networks with random weights.

    What `Stages` asks of a Checkpoint, so that it places, streams and packs as it does with files;
    the texts and the schedule are the toy checkpoint's.
    """

    def __init__(self, folder: Path, scale: str) -> None:
        from glmimage.loading.checkpoint import PRIOR_FOLDER, Checkpoint
        from glmimage.loading.tensors import read_json
        from glmimage.model.config import DitConfig, PriorConfig, VisionConfig, VQConfig

        self._toy, self._sizes = Checkpoint(folder), SIZES[scale]
        self.path, self.scheduler_config = self._toy.path, self._toy.scheduler_config
        # the toy's markers are codes here, and may be drawn
        self.generation_config = dict(self._toy.generation_config)
        self.generation_config.pop("suppress_tokens", None)
        config = read_json(folder, f"{PRIOR_FOLDER}/config.json")
        for part in ("text", "vision", "vq"):
            config[f"{part}_config"] |= self._sizes[part]
        config["text_config"]["rope_parameters"] |= ROPE
        self.prior_config = PriorConfig.from_dict(config)
        self.vision_config = VisionConfig.from_dict(config)
        self.vq_config = VQConfig.from_dict(config)
        self.dit_config = DitConfig(2, 16, 16, **self._sizes["dit"])

    def needs(self, dtypes: Any, weights: str = "") -> Any:
        """Count what it takes, as `stages.needs` does from files."""
        from glmimage.stages import needs

        widest = self._sizes["vae"]["block_out_channels"][1]
        counted = needs(self, dtypes, weights)  # type: ignore[arg-type]
        return replace(counted, vae_pixel=4 * widest * dtypes.decode.itemsize)

    def component_bytes(self, dtype: torch.dtype, weights: str = "") -> dict[str, int]:
        from glmimage.loading.quantized import packed_bytes, quantizable

        sizes = {}
        for name in ("prior", "vision", "dit", "glyph", "vae"):
            model = self._build(name)
            packs = quantizable(model) if weights and name in ("prior", "dit") else ()
            sizes[name] = sum(
                packed_bytes(*parameter.shape, weights)
                if at in packs
                else parameter.numel() * dtype.itemsize
                for at, parameter in model.named_parameters()
            )
        return sizes

    def load_prior(self, *where: Any) -> Any:
        return self._load("prior", *where)

    def load_vision(self, *where: Any) -> Any:
        return self._load("vision", *where)

    def load_dit(self, *where: Any) -> Any:
        return self._load("dit", *where)

    def load_glyph(self, *where: Any) -> Any:
        from glmimage.model.glyph import GlyphEncoder

        tokenizer = self._toy.load_glyph().tokenizer
        return GlyphEncoder(self._load("glyph", *where), tokenizer).eval()

    def load_vae(self, *where: Any) -> Any:
        from glmimage.model.vae import VAE

        return VAE(self._load("vae", *where)).eval()

    def load_prompt(self) -> Any:
        return self._toy.load_prompt()

    def _build(self, name: str) -> nn.Module:
        from glmimage.model.dit import DiT
        from glmimage.model.prior import PriorModel
        from glmimage.model.vision import VisionTokenizer

        with torch.device("meta"):
            if name == "prior":
                return PriorModel(self.prior_config)
            if name == "vision":
                return VisionTokenizer(self.vision_config, self.vq_config)
            if name == "dit":
                return DiT(self.dit_config)
            return new_glyph(self._sizes) if name == "glyph" else new_vae(self._sizes)

    def _load(
        self,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        on_progress: Any = None,
        kept_layers: int | None = None,
        weights: str = "",
    ) -> nn.Module:
        """Build a network on the device; one weight at a time is there twice when it is packed."""
        from glmimage.loading.quantized import quantizable, quantize, replace_weight
        from glmimage.loading.streamed import streamed_names

        model = self._build(name)
        streamed = streamed_names(model, kept_layers)
        packs = quantizable(model) if weights else frozenset()
        made: dict[int, nn.Parameter] = {}  # a tied one has several names
        for at, parameter in list(model.named_parameters(remove_duplicate=False)):
            if at in streamed:
                continue
            if id(parameter) not in made:
                values = _randomise(at, torch.empty(parameter.shape, device=device, dtype=dtype))
                if at in packs:
                    replace_weight(model, at, quantize(values, weights), dtype)
                    continue
                made[id(parameter)] = nn.Parameter(values, requires_grad=False)
            owner, _, leaf = at.rpartition(".")
            setattr(model.get_submodule(owner), leaf, made[id(parameter)])
        if streamed:
            _stream(model, streamed, device, dtype)
        return model.eval()


def _stream(
    model: nn.Module,
    streamed: Mapping[str, tuple[int, str]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Let layers be brought to the device as they run; all have the same weights."""
    from glmimage.loading.streamed import PINNED_SHARE, StreamedLayers

    group = next(iter(streamed)).partition(".")[0]
    indices = sorted({index for index, _ in streamed.values()})
    layers = [model.get_submodule(f"{group}.{index}") for index in indices]
    names = [name for index, name in streamed.values() if index == indices[0]]
    host = {}
    for name in names:  # drawn on the device, which is many times as fast
        shape = layers[0].get_parameter(name).shape
        host[name] = _randomise(name, torch.empty(shape, device=device, dtype=dtype)).cpu()
    size = len(layers) * sum(values.numel() for values in host.values()) * dtype.itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pinned = device.type == "cuda" and size < PINNED_SHARE * memory

    def read(index: int, name: str, target: Tensor) -> None:
        target.copy_(host[name])

    StreamedLayers(layers, names, read, device, dtype, pinned=pinned)


def open_checkpoint(folder: Path, scale: str) -> Any:
    """Open the toy checkpoint, or what stands in for one of the scale's sizes."""
    from glmimage.loading.checkpoint import Checkpoint

    return Checkpoint(folder) if scale == "tiny" else RandomCheckpoint(folder, scale)


def count_needs(checkpoint: Any, dtypes: Any, weights: str = "") -> Any:
    """Count the memory that a checkpoint of `open_checkpoint` takes."""
    from glmimage.stages import needs

    if isinstance(checkpoint, RandomCheckpoint):
        return checkpoint.needs(dtypes, weights)
    return needs(checkpoint, dtypes, weights)


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
        for part in ("text", "vision", "vq"):
            for name, value in sizes[part].items():
                setattr(getattr(config, f"{part}_config"), name, value)
        config.text_config.rope_parameters |= ROPE
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
    images = [list(references(case))] if case["references"] else None

    def generate_few(**options: Any) -> Any:
        generate(**options | {"max_new_tokens": count})
        raise _EnoughTokens

    started_s = time.perf_counter()
    encoder.generate = generate_few
    try:
        pipe.generate_prior_tokens(PROMPT, case["height"], case["width"], images)
    except _EnoughTokens:
        synchronize(encoder.device)
    finally:
        encoder.generate = generate
    return time.perf_counter() - started_s


def token_seconds(pipe: Any, case: dict[str, Any]) -> float:
    """Return the seconds of one of the first tokens of diffusers' pipeline, the prompt apart."""
    few_tokens(pipe, case, 2)  # warms up
    short_s, long_s = few_tokens(pipe, case, 2), few_tokens(pipe, case, 18)
    # on a busy machine the difference of so few may say nothing
    return (long_s - short_s) / 16 if long_s > short_s else long_s / 18


def step_seconds(pipe: Any, case: dict[str, Any], device: torch.device) -> float:
    """Return the seconds of a denoise step of diffusers' pipeline; the first of three warms up."""
    from glmimage.memory import synchronize

    height, width, ends = case["height"], case["width"], []

    def ended(*_: Any) -> dict[str, Any]:
        synchronize(device)
        ends.append(time.perf_counter())
        return {}

    given: dict[str, Any] = {}
    if images := references(case):
        # 512 px: 32 x 32 tokens each as the decoder reads them
        given["image"] = list(images)
        ids = torch.zeros(len(images) * 32 * 32, dtype=torch.long, device=device)
        given["prior_token_image_ids"] = [ids]
        given["source_image_grid_thw"] = [torch.tensor([[1, 32, 32]] * len(images))]
    tokens = (height // 16) * (width // 16)
    pipe(
        PROMPT,
        height=height,
        width=width,
        num_inference_steps=3,
        guidance_scale=case["guidance"],
        prior_token_ids=torch.zeros(1, tokens, dtype=torch.long, device=device),
        callback_on_step_end=ended,
        **given,
    )
    return (ends[-1] - ends[0]) / (len(ends) - 1)
