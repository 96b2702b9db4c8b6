"""Turn a packed checkpoint back into weights that training can begin with: runs/warm_prior.pt and so on.

For another machine than the one that trained it. The tables were merged on saving; here what tokens share is taken
out again as their mean.
"""

import argparse
import json
from pathlib import Path

import torch
from code_table import CodeTable
from decoder import Decoder
from designs import load_codebook, load_words
from diffusers import AutoencoderKL
from layout import FIRST_BYTE, VISION_VOCAB_SIZE
from pack import DESTINATION, invisible_inks, is_numbered_by_these_names
from prior import LOOK_UP, Prior
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
    FORM_SIDES,
    LENGTH,
    MIXES,
    NUM_MESSAGES,
    NUM_STENCILS,
    NUM_TEXT_TOKENS,
    STENCIL,
)

# How the ninth version, and those of its numbers, had them: messages with six forms, and areas where stencils are.
NINTH_CODEBOOK_SIZE, NINTH_MESSAGES, NINTH_STEPS, NINTH_AREAS = 8192, 96, 39, 16
GATE = "post_self_attn_layernorm.weight"
IDLE = 0.1  # where the mean of this norm's weights is below, a layer of the seventh version did nothing


def numbers_of_ninth() -> torch.Tensor:
    """Return the number that each vision id had in the ninth version, int (VISION_VOCAB_SIZE,).

    A form has that of its kind. What became stencils was nothing that looks like them.
    """
    color, what = torch.arange(len(COLORS) + 1)[:, None], torch.arange(NUM_MESSAGES)
    said = torch.where(what < FORM, what, FORM + (what - FORM) // len(FORM_SIDES))
    messages = FIRST_COLORED + color * NINTH_MESSAGES + said
    first_step = FIRST_COLORED + (len(COLORS) + 1) * NINTH_MESSAGES
    areas = first_step + NINTH_STEPS + torch.arange(NUM_STENCILS) % NINTH_AREAS
    steps = first_step + torch.arange(NINTH_STEPS)
    rest = first_step + NINTH_STEPS + NINTH_AREAS + torch.arange(VISION_VOCAB_SIZE - FIRST_BACKGROUND)
    return torch.cat([torch.arange(NUM_TEXT_TOKENS), messages.flatten(), steps, areas, rest])


def renumbered(table: torch.Tensor) -> torch.Tensor:
    """Return a table of vision ids, and what follows them, by the numbers of type_tokens.py."""
    added = VISION_VOCAB_SIZE - CODEBOOK_SIZE
    if len(table) >= VISION_VOCAB_SIZE or len(table) == CODEBOOK_SIZE:
        return table
    numbers = numbers_of_ninth()
    if len(table) == NINTH_CODEBOOK_SIZE:
        return table[numbers[:CODEBOOK_SIZE]]
    return torch.cat([table[numbers], table[NINTH_CODEBOOK_SIZE + added :]])


def is_numbered_as_ninth(folder: Path) -> bool:
    """Say whether a checkpoint's tokens have the ninth version's numbers, by the inks that it rules out."""
    file = folder / "vision_language_encoder/generation_config.json"
    ruled_out = set(json.loads(file.read_text())["suppress_tokens"])
    return {*numbers_of_ninth()[invisible_inks()].tolist(), NINTH_CODEBOOK_SIZE} <= ruled_out


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
    text = merged[:NUM_TEXT_TOKENS]
    for name in ("char", "part", "style"):
        of, parameter = getattr(table, f"{name}_of")[:NUM_TEXT_TOKENS], getattr(table, name)
        parameter.zero_()
        parameter.index_add_(0, of, text)
        parameter /= of.bincount(minlength=len(parameter)).clamp(min=1)[:, None]
        text = text - parameter[of]


@torch.no_grad()
def prior_of(folder: Path, centres) -> Prior:
    """Read the prior."""
    state = load_file(folder / "vision_language_encoder/model.safetensors")
    prior, prefix = Prior(centres), "model.language_model."
    embeddings = renumbered(state[prefix + "embed_tokens.weight"].float())
    split_table(prior.codes, embeddings[:FIRST_BYTE])
    split_table(prior.head, renumbered(state["lm_head.weight"].float()))
    prior.text.copy_(embeddings[FIRST_BYTE:])
    prior.norm.weight.copy_(state[prefix + "norm.weight"])
    layers = [k.removeprefix(prefix + "layers.").split(".", 1) for k in state if k.startswith(prefix + "layers.")]
    gates = {int(n): float(state[f"{prefix}layers.{n}.{GATE}"].abs().mean()) for n, name in layers if name == GATE}
    places = places_of(gates, len(prior.layers))
    for number, name in layers:
        if int(number) in places:
            parameter = prior.layers[places[int(number)]].get_parameter(name)
            parameter.copy_(state[f"{prefix}layers.{number}.{name}"])
    return prior


def places_of(gates: dict[int, float], number: int) -> dict[int, int]:
    """Return where a checkpoint's layers go among `number`: all to their own place where there are as many.

    gates: how much each adds. Else those that add next to nothing make room for layers that look up the source.
    """
    if len(gates) == number:
        return {layer: layer for layer in gates}
    busy = [layer for layer, gate in sorted(gates.items()) if gate > IDLE]
    free = [place for place in range(number) if place not in LOOK_UP]
    if len(busy) != len(free):
        raise SystemExit(f"{len(busy)} of the checkpoint's layers do something; {len(free)} were expected")
    return dict(zip(busy, free, strict=True))


@torch.no_grad()
def decoder_of(folder: Path, centres) -> Decoder:
    """Read the decoder and its glyph encoder."""
    decoder = Decoder(centres)
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    state["prior_token_embedding.weight"] = renumbered(state["prior_token_embedding.weight"])
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
    codes = renumbered(state["model.vqmodel.quantize.embedding.weight"].float())
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
    if not (is_numbered_by_these_names(args.checkpoint) or is_numbered_as_ninth(args.checkpoint)):
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
