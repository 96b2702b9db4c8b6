"""Put the trained parts together as a checkpoint in the public folder layout, bf16, and check what was written."""

import argparse
import json
from pathlib import Path

import torch
from decoder import CONFIG, GLYPH_CONFIG, Decoder
from designs import LEAST_CONTRAST
from diffusers import AutoencoderKL
from layout import (
    CODEBOOK_SIZE,
    FIRST_BYTE,
    GRID_END,
    GRID_START,
    IMAGE_END,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    PAD,
    PRIOR_CONFIG,
    PROMPT_BYTES,
    VISION_VOCAB_SIZE,
)
from prior import Prior
from renderer import BackgroundCodebook, contrast
from safetensors.torch import save_file
from tokenizer import CODE_DIM, VISION_CONFIG, CellEncoder
from torch import nn
from training import CODEBOOK, RUNS
from transformers import ByT5Tokenizer, GenerationConfig, GlmImageConfig, GlmImageForConditionalGeneration
from type_tokens import COLORS, PALETTE, message

from glmimage.loading.tiny import CHAT_TEMPLATE as PLAIN_TEMPLATE
from glmimage.loading.tiny import write_processor, write_scheduler

DESTINATION = Path(__file__).parents[2] / "src/glmimage/checkpoints/nano"
SPECIAL_TOKENS = {
    "<|image_start|>": IMAGE_START,
    "<|image_end|>": IMAGE_END,
    "<|pad|>": PAD,
    "<|image|>": IMAGE_PLACEHOLDER,
    "<grid>": GRID_START,
    "</grid>": GRID_END,
}

TEXT = "{{ part['text'] }}"
# behind references an instruction is filled with spaces, as layout.padded does it
CHAT_TEMPLATE = PLAIN_TEMPLATE.replace(
    TEXT,
    f"{TEXT}{{% if message['content'] | selectattr('type', 'equalto', 'image') | list %}}"
    f"{{{{ ' ' * (-(part['text'].encode() | length) % {PROMPT_BYTES}) }}}}{{% endif %}}",
)


def invisible_inks() -> list[int]:
    """Return the tokens that say an ink too near to their own colour; no design has one.

    Ink and colour are scored apart (code_table.CodeTable), so the prior cannot rule them out where it draws both.
    """
    inks = [
        [ink for ink, other in enumerate(COLORS) if contrast(PALETTE[other], PALETTE[color]) <= LEAST_CONTRAST]
        for color in COLORS
    ]
    return [message(color, ink) for color, near in enumerate(inks) for ink in near]


def is_numbered_by_these_names(folder: Path) -> bool:
    """Say whether a checkpoint's tokens have the numbers of type_tokens.py, by the inks that it rules out."""
    file = folder / "vision_language_encoder/generation_config.json"
    return set(invisible_inks()) <= set(json.loads(file.read_text())["suppress_tokens"])


def load_run(name: str, module: nn.Module, key: str, averaged: bool) -> nn.Module:
    """Fill a module from a run's checkpoint, from the averaged weights when asked."""
    modules = torch.load(RUNS / f"{name}.pt", map_location="cpu", weights_only=True)["modules"]
    module.load_state_dict(modules["average"]["values"] if averaged else modules[key])
    return module.eval().requires_grad_(False)


@torch.no_grad()
def mix_with(module: nn.Module, earlier: Path, share: float) -> None:
    """Make a module the mean of itself, which counts `share` of 1, and of weights that it began with.

    earlier: the checkpoint of a run, or plain weights as warm_start.py writes them.
    """
    state = torch.load(earlier, map_location="cpu", weights_only=True)
    if "modules" in state:
        state = state["modules"]["average"]["values"]
    for name, value in module.state_dict().items():
        value.lerp_(state[name].to(value), 1 - share)


def prior_state(prior: Prior) -> dict[str, torch.Tensor]:
    """Return the prior's tensors under the reference's names, tables merged."""
    state = {"model.language_model.embed_tokens.weight": torch.cat([prior.codes.merged(), prior.text])}
    for name, value in prior.state_dict().items():
        if name.startswith(("layers.", "norm.")):
            state[f"model.language_model.{name}"] = value
    state["lm_head.weight"] = prior.head.merged()
    return state


@torch.no_grad()
def vision_state(encoder: CellEncoder, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tokenizer's tensors under the reference's names; what it does not have is zero there."""
    state = {k: torch.zeros_like(v) for k, v in like.items() if k.startswith(("model.visual.", "model.vqmodel."))}
    for name, tensor in state.items():
        if "norm1.weight" in name:
            tensor.fill_(1.0)
    patch = state["model.visual.patch_embed.proj.weight"]
    patch.copy_(encoder.patch.weight.view_as(patch))
    state["model.visual.patch_embed.proj.bias"].copy_(encoder.patch.bias)
    for i, block in enumerate(encoder.blocks):
        for ours, theirs in (("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            state[f"model.visual.blocks.{i}.{theirs}.weight"].copy_(block[ours].weight)
            state[f"model.visual.blocks.{i}.{theirs}.bias"].copy_(block[ours].bias)
    pack_attention(encoder, state, f"model.visual.blocks.{len(encoder.blocks) - 1}.")
    conv = state["model.vqmodel.quant_conv.weight"]
    conv.copy_(encoder.quant_conv.weight.view_as(conv))
    state["model.vqmodel.quant_conv.bias"].copy_(encoder.quant_conv.bias)
    state["model.vqmodel.quantize.embedding.weight"].copy_(nn.functional.normalize(encoder.codes, dim=-1))
    return state


@torch.no_grad()
def pack_attention(encoder: CellEncoder, state: dict[str, torch.Tensor], layer: str) -> None:
    """Fill the attention of the layer that looks at the whole picture: every query the same, keys that are scores."""
    heads, width = encoder.scores.weight.shape
    head_dim = width // heads
    weights = state[f"{layer}attn.qkv.weight"].view(3, heads, head_dim, width)
    biases = state[f"{layer}attn.qkv.bias"].view(3, heads, head_dim)
    biases[0, :, 0] = head_dim**0.5  # a product of query and key is divided by it
    weights[1, :, 0], biases[1, :, 0] = encoder.scores.weight, encoder.scores.bias
    weights[2], biases[2] = encoder.values.weight.view_as(weights[2]), encoder.values.bias.view_as(biases[2])
    state[f"{layer}attn.proj.weight"].copy_(encoder.out.weight)
    state[f"{layer}attn.proj.bias"].copy_(encoder.out.bias)
    state[f"{layer}norm1.weight"].copy_(encoder.norm1.weight)
    state[f"{layer}norm1.bias"].copy_(encoder.norm1.bias)


def write(folder: Path, state: dict[str, torch.Tensor], stem: str) -> None:
    """Write tensors in bf16 as one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in state.items()}
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Write the checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DESTINATION)
    parser.add_argument("--earlier", type=Path, help="the prior's weights of before, to take the mean with")
    parser.add_argument("--share", type=float, default=0.7, help="of the prior's last weights in that mean")
    parser.add_argument("--raw", action="store_true", help="last weights instead of averaged ones")
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--top-p", type=float, default=0.9)
    args = parser.parse_args()
    out: Path = args.out
    centres = BackgroundCodebook.load(CODEBOOK).centres
    prior = load_run("prior", Prior(centres), "prior", not args.raw)
    if args.earlier:
        mix_with(prior, args.earlier, args.share)
    decoder = load_run("decoder", Decoder(centres), "decoder", not args.raw)
    encoder = load_run("tokenizer", CellEncoder(centres), "encoder", averaged=False)

    text_config = {**PRIOR_CONFIG, "hidden_act": "silu", "attention_bias": True, "tie_word_embeddings": False}
    config = GlmImageConfig(
        text_config=text_config,
        vision_config=VISION_CONFIG,
        vq_config={
            "embed_dim": CODE_DIM,
            "num_embeddings": CODEBOOK_SIZE,
            "latent_channels": VISION_CONFIG["hidden_size"],
        },
        image_token_id=IMAGE_PLACEHOLDER,
        image_start_token_id=IMAGE_START,
        image_end_token_id=IMAGE_END,
    )
    reference = GlmImageForConditionalGeneration(config)
    like = reference.state_dict()
    state = prior_state(prior) | vision_state(encoder, like)
    reference.load_state_dict(state)
    folder = out / "vision_language_encoder"
    write(folder, state, "model")
    config.architectures = ["GlmImageForConditionalGeneration"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    GenerationConfig(
        do_sample=True,
        temperature=args.temperature,
        top_p=args.top_p,
        eos_token_id=IMAGE_END,
        pad_token_id=PAD,
        suppress_tokens=[*invisible_inks(), *range(CODEBOOK_SIZE, VISION_VOCAB_SIZE)],
    ).save_pretrained(folder)

    dit_state = {k: v for k, v in decoder.dit.state_dict().items() if k != "prior_token_embedding.weight"}
    dit_state["prior_token_embedding.weight"] = decoder.embedding.merged()
    write(out / "transformer", dit_state, "diffusion_pytorch_model")
    decoder.dit.save_config(out / "transformer")

    glyph_state = {k: v for k, v in decoder.glyphs.state_dict().items() if k != "encoder.embed_tokens.weight"}
    write(out / "text_encoder", glyph_state, "model")
    glyph_config = decoder.glyphs.config
    glyph_config.architectures = ["T5EncoderModel"]
    glyph_config.tokenizer_class = "ByT5Tokenizer"
    glyph_config.save_pretrained(out / "text_encoder")
    ByT5Tokenizer().save_pretrained(out / "tokenizer")

    vae = AutoencoderKL.from_pretrained(RUNS / "vae")
    write(out / "vae", vae.state_dict(), "diffusion_pytorch_model")
    vae.save_config(out / "vae")
    config_path = out / "vae/config.json"
    values = json.loads(config_path.read_text())
    values.pop("_name_or_path", None)  # where it lay on the machine that trained it
    config_path.write_text(json.dumps(values, indent=2) + "\n")
    write_processor(out / "processor", SPECIAL_TOKENS, FIRST_BYTE, CHAT_TEMPLATE)
    write_scheduler(out)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(json.dumps({"path": str(out), "bytes": size, "dit": CONFIG, "glyph": GLYPH_CONFIG["d_model"]}))


if __name__ == "__main__":
    main()
