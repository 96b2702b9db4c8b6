"""Write a random toy checkpoint with every component of GLM-Image, in its exact folder layout.

The weights are random but nowhere trivially zero or one, so that a test on this checkpoint
notices a dropped bias, norm or modulation. Loadable by diffusers' GlmImagePipeline.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

NUM_CODES = 256  # VQ codebook, and the DiT's prior vocabulary
IMAGE_START, IMAGE_END = 256, 257
VISION_VOCAB = 272  # what lm_head covers; like the real one it has unused ids after the end marker
FIRST_BYTE = VISION_VOCAB  # text ids follow the vision vocabulary: id = FIRST_BYTE + byte
SPECIAL_TOKENS = {
    "<|image_start|>": IMAGE_START,
    "<|image_end|>": IMAGE_END,
    "<|pad|>": FIRST_BYTE + 256,
    "<|image|>": FIRST_BYTE + 257,
    "<grid>": FIRST_BYTE + 258,
    "</grid>": FIRST_BYTE + 259,
}
VOCAB = FIRST_BYTE + 264
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image_start|><|image|><|image_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
GLYPH_WIDTH = 32


def make_tiny(directory: str | Path, seed: int = 0) -> Path:
    """Write the toy checkpoint into `directory` (created if missing) and return its path.

    About 3 MB, float32; the same seed writes the same tensors. No global random state is touched.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the constructors below draw from the global generator
        torch.manual_seed(seed)
        _write_prior(root / "vision_language_encoder", generator)
        _write_dit(root / "transformer", generator)
        _write_glyph(root, generator)
        _write_vae(root / "vae", generator)
    write_processor(root / "processor", SPECIAL_TOKENS, FIRST_BYTE)
    write_scheduler(root)
    return root


def _write_prior(folder: Path, generator: torch.Generator) -> None:
    from transformers import GenerationConfig, GlmImageConfig, GlmImageForConditionalGeneration

    config = GlmImageConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 128,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vision_vocab_size": VISION_VOCAB,
            "max_position_embeddings": 8192,
            "pad_token_id": SPECIAL_TOKENS["<|pad|>"],
            "eos_token_id": IMAGE_END,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 96,
            "image_size": 256,
            "patch_size": 16,
        },
        vq_config={"embed_dim": 32, "num_embeddings": NUM_CODES, "latent_channels": 64},
        image_token_id=SPECIAL_TOKENS["<|image|>"],
        image_start_token_id=IMAGE_START,
        image_end_token_id=IMAGE_END,
    )
    model = GlmImageForConditionalGeneration(config)
    _randomise(model, generator)
    # A random model would stop or leave the codebook at any moment, where a trained one does not.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.9,
        top_p=0.75,
        eos_token_id=IMAGE_END,
        pad_token_id=SPECIAL_TOKENS["<|pad|>"],
        suppress_tokens=list(range(NUM_CODES, VISION_VOCAB)),
    )
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    _write_shards(folder, "model", model, num_shards=3)


def _write_dit(folder: Path, generator: torch.Generator) -> None:
    from diffusers.models import GlmImageTransformer2DModel

    model = GlmImageTransformer2DModel(
        num_layers=3,
        num_attention_heads=4,
        attention_head_dim=16,
        text_embed_dim=GLYPH_WIDTH,
        time_embed_dim=48,
        condition_dim=16,
        prior_vq_quantizer_codebook_size=NUM_CODES,
    )
    _randomise(model, generator)
    model.save_config(folder)
    _write_shards(folder, "diffusion_pytorch_model", model, num_shards=2)


def _write_glyph(root: Path, generator: torch.Generator) -> None:
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=384,
        d_model=GLYPH_WIDTH,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        d_ff=64,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        tokenizer_class="ByT5Tokenizer",
    )
    encoder = T5EncoderModel(config)
    _randomise(encoder, generator)
    config.architectures = [type(encoder).__name__]
    config.save_pretrained(root / "text_encoder")
    _write_shards(root / "text_encoder", "model", encoder, num_shards=1)
    ByT5Tokenizer().save_pretrained(root / "tokenizer")


def _write_vae(folder: Path, generator: torch.Generator) -> None:
    from diffusers.models import AutoencoderKL

    mean = torch.randn(16, generator=generator) * 0.3
    std = torch.rand(16, generator=generator) + 0.5
    model = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        latents_mean=tuple(round(x, 4) for x in mean.tolist()),
        latents_std=tuple(round(x, 4) for x in std.tolist()),
    )
    _randomise(model, generator)
    model.save_config(folder)
    _write_shards(folder, "diffusion_pytorch_model", model, num_shards=1)


def write_processor(
    folder: Path,
    special_tokens: dict[str, int],
    first_byte: int,
    chat_template: str = CHAT_TEMPLATE,
) -> None:
    """Write a processor whose tokenizer reads bytes, id = first_byte + byte.

    special_tokens: the six names of SPECIAL_TOKENS and their ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GlmImageImageProcessorPil,
        GlmImageProcessor,
        PreTrainedTokenizerFast,
    )

    vocab = {symbol: first_byte + byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab={**vocab, **special_tokens}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|image_start|>",
        eos_token="<|image_end|>",
        pad_token="<|pad|>",
        padding_side="left",
        extra_special_tokens={
            "image_token": "<|image|>",
            "grid_bos_token": "<grid>",
            "grid_eos_token": "</grid>",
        },
    )
    images = GlmImageImageProcessorPil(
        patch_size=16, temporal_patch_size=1, merge_size=1, min_pixels=512**2, max_pixels=2048**2
    )
    GlmImageProcessor(
        image_processor=images, tokenizer=fast, chat_template=chat_template
    ).save_pretrained(folder)


def write_scheduler(root: Path) -> None:
    """Write the real model's schedule and the index of the components."""
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "use_dynamic_shifting": True,
        "time_shift_type": "linear",
        "base_shift": 0.25,
        "max_shift": 0.75,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "shift": 1.0,
    }
    index = {
        "_class_name": "GlmImagePipeline",
        "processor": ["transformers", "GlmImageProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "ByT5Tokenizer"],
        "transformer": ["diffusers", "GlmImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vision_language_encoder": ["transformers", "GlmImageForConditionalGeneration"],
    }
    (root / "scheduler").mkdir(exist_ok=True)
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    (root / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_shards(folder: Path, stem: str, model: nn.Module, num_shards: int) -> None:
    """Write the parameters as one file, or as shards with the index that names them."""
    tensors = dict(model.named_parameters())  # a tied tensor appears once
    names = sorted(tensors)
    if num_shards == 1:
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"{stem}-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total_size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter: matrices keep the variance, norms sit around 1, biases around 0."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            if isinstance(module, nn.Embedding):
                parameter.copy_(noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name == "bias":
                parameter.copy_(noise * 0.1)
            else:
                parameter.copy_(1 + noise * 0.1)


def _byte_symbols() -> list[str]:
    """Name the 256 bytes as ByteLevel does: printable Latin-1 as itself, the rest from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
