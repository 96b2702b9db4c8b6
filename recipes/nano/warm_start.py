"""Turn a packed checkpoint back into weights that training can begin with: runs/warm_prior.pt and so on.

For another machine than the one that trained it. The tables were merged on saving; here what tokens share is taken
out again as their mean.
"""

import argparse
from pathlib import Path

import torch
from code_table import CodeTable
from decoder import Decoder
from designs import load_codebook, load_words
from diffusers import AutoencoderKL
from layout import FIRST_BYTE, VISION_VOCAB_SIZE
from pack import DESTINATION, is_numbered_by_these_names
from prior import Prior
from safetensors.torch import load_file
from tokenizer import CellEncoder
from training import CODEBOOK, RUNS
from type_tokens import (
    CODEBOOK_SIZE,
    COLORS,
    FIRST_BACKGROUND,
    FIRST_COLORED,
    FIRST_COLORLESS,
    FIRST_MIX,
    FORM,
    LENGTH,
    MIXES,
    NUM_MESSAGES,
    NUM_STENCILS,
    NUM_TEXT_TOKENS,
    STENCIL,
)

ROUNDS = 20


@torch.no_grad()
def split_table(table: CodeTable, merged: torch.Tensor) -> None:
    """Fill a table's parts so that they add up to `merged`, (vision vocabulary, hidden)."""
    merged = merged.clone()
    table.special.copy_(merged[CODEBOOK_SIZE:])
    table.color.zero_()
    table.background.copy_(merged[FIRST_BACKGROUND:CODEBOOK_SIZE])
    mixes = slice(len(COLORS), len(COLORS) + len(MIXES))
    table.background[mixes] += merged[FIRST_MIX : FIRST_MIX + len(MIXES)] - table.mixtures()
    table.step.copy_(merged[LENGTH:FIRST_BACKGROUND])
    bare = merged[FIRST_COLORLESS:LENGTH]
    colored = merged[FIRST_COLORED:FIRST_COLORLESS].view(len(COLORS), NUM_MESSAGES, -1)
    table.message.copy_((colored - table.background[: len(COLORS), None]).mean(0))
    table.colorless.copy_((bare - table.message).mean(0, keepdim=True))
    rest = merged[:NUM_TEXT_TOKENS]
    names = ("char", "part", "style")
    for name in names:
        getattr(table, name).zero_()
    for name in names * ROUNDS:  # not every size has every style: means of what is left, again and again
        of, parameter = getattr(table, f"{name}_of")[:NUM_TEXT_TOKENS], getattr(table, name)
        mean = torch.zeros_like(parameter).index_add_(0, of, rest)
        mean /= of.bincount(minlength=len(parameter)).clamp(min=1)[:, None]
        parameter += mean
        rest = rest - mean[of]


@torch.no_grad()
def prior_of(folder: Path, centres) -> Prior:
    """Read the prior."""
    state = load_file(folder / "vision_language_encoder/model.safetensors")
    prior, prefix = Prior(centres), "model.language_model."
    embeddings = state[prefix + "embed_tokens.weight"].float()
    split_table(prior.codes, embeddings[:FIRST_BYTE])
    split_table(prior.head, state["lm_head.weight"].float())
    prior.text.copy_(embeddings[FIRST_BYTE:])
    prior.norm.weight.copy_(state[prefix + "norm.weight"])
    prior.layers.load_state_dict(
        {k.removeprefix(prefix + "layers."): v for k, v in state.items() if k.startswith(prefix + "layers.")}
    )
    return prior


@torch.no_grad()
def decoder_of(folder: Path, centres) -> Decoder:
    """Read the decoder and its glyph encoder."""
    decoder = Decoder(centres)
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    decoder.dit.load_state_dict({k: v.float() for k, v in state.items()})
    glyphs = load_file(folder / "text_encoder/model.safetensors")
    decoder.glyphs.load_state_dict({k: v.float() for k, v in glyphs.items()}, strict=False)
    table, embedding = decoder.dit.prior_token_embedding.weight, decoder.embedding
    embedding.glyph.copy_(table[:NUM_TEXT_TOKENS])
    embedding.color.zero_()
    embedding.background.copy_(table[FIRST_BACKGROUND:CODEBOOK_SIZE])
    embedding.unknown.copy_(table[LENGTH : LENGTH + 1])
    embedding.stencil.copy_(table[STENCIL : STENCIL + NUM_STENCILS])
    parts = ((embedding.ink, FIRST_COLORLESS), (embedding.form_color, FIRST_COLORLESS + FORM))
    for parameter, first in parts:
        parameter.copy_(table[first : first + len(parameter)] - embedding.unknown)
    return decoder


def tokenizer_of(folder: Path, centres) -> CellEncoder:
    """Read the semantic tokenizer."""
    encoder = CellEncoder(centres)
    fill_tokenizer(encoder, load_file(folder / "vision_language_encoder/model.safetensors"))
    return encoder


@torch.no_grad()
def fill_tokenizer(encoder: CellEncoder, state: dict[str, torch.Tensor]) -> None:
    """Undo pack.vision_state."""
    patch = state["model.visual.patch_embed.proj.weight"]
    encoder.patch.weight.copy_(patch.flatten(1))
    encoder.patch.bias.copy_(state["model.visual.patch_embed.proj.bias"])
    for i, block in enumerate(encoder.blocks):
        for ours, theirs in (("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            block[ours].weight.copy_(state[f"model.visual.blocks.{i}.{theirs}.weight"])
            block[ours].bias.copy_(state[f"model.visual.blocks.{i}.{theirs}.bias"])
    _fill_attention(encoder, state, f"model.visual.blocks.{len(encoder.blocks) - 1}.")
    encoder.quant_conv.weight.copy_(state["model.vqmodel.quant_conv.weight"].flatten(1))
    encoder.quant_conv.bias.copy_(state["model.vqmodel.quant_conv.bias"])
    codes = state["model.vqmodel.quantize.embedding.weight"].float()
    codes = torch.cat([codes, codes.new_zeros(VISION_VOCAB_SIZE - CODEBOOK_SIZE, codes.shape[1])])
    split_table(encoder.table, codes)


def _fill_attention(encoder: CellEncoder, state: dict[str, torch.Tensor], layer: str) -> None:
    """Undo pack.pack_attention; of a checkpoint that has none, what attention finds still adds nothing."""
    output = state[f"{layer}attn.proj.weight"]
    if not output.any():
        return
    heads, width = encoder.scores.weight.shape
    weights = state[f"{layer}attn.qkv.weight"].view(3, heads, -1, width)
    biases = state[f"{layer}attn.qkv.bias"].view(3, heads, -1)
    encoder.scores.weight.copy_(weights[1, :, 0])
    encoder.scores.bias.copy_(biases[1, :, 0])
    encoder.values.weight.copy_(weights[2].flatten(0, 1))
    encoder.values.bias.copy_(biases[2].flatten())
    encoder.out.weight.copy_(output)
    encoder.out.bias.copy_(state[f"{layer}attn.proj.bias"])
    encoder.norm1.weight.copy_(state[f"{layer}norm1.weight"])
    encoder.norm1.bias.copy_(state[f"{layer}norm1.bias"])


def main() -> None:
    """Write the weights and the VAE's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DESTINATION)
    args = parser.parse_args()
    if not is_numbered_by_these_names(args.checkpoint):
        raise SystemExit(f"The tokens of {args.checkpoint} have other numbers than recipes/nano/type_tokens.py gives.")
    words, _ = load_words()
    centres = load_codebook(CODEBOOK, words).centres
    RUNS.mkdir(exist_ok=True)
    torch.save(prior_of(args.checkpoint, centres).state_dict(), RUNS / "warm_prior.pt")
    torch.save(decoder_of(args.checkpoint, centres).state_dict(), RUNS / "warm_decoder.pt")
    torch.save(tokenizer_of(args.checkpoint, centres).state_dict(), RUNS / "warm_tokenizer.pt")
    AutoencoderKL.from_pretrained(args.checkpoint / "vae", torch_dtype=torch.float32).save_pretrained(RUNS / "vae")
    print("now: python prior.py --from runs/warm_prior.pt, and so on")


if __name__ == "__main__":
    main()
