"""Carry the first version's weights over to the tokens of the third: runs/from_first_prior.pt, from_first_decoder.pt.

The first version (src/glmimage/checkpoints/nano) spells and paints type of three styles; its layers are kept, its
tables are rebuilt by what the tokens name. The prior spells .71 to .76 of the letters of a plan before the first step.
The decoder's glyphs begin as the latents of their cells, so that it need not learn each by heart.
"""

from pathlib import Path

import numpy as np
import torch
from decoder import WIDTH, Decoder
from designs import load_codebook, load_words
from diffusers import AutoencoderKL
from pack import DESTINATION
from prior import CodeTable, Prior
from renderer import glyph_mask
from safetensors.torch import load_file
from training import CODEBOOK, RUNS
from type_tokens import CHARS, COLORS, NUM_TEXT_TOKENS, PALETTE, PARTS, SIZES, STYLES_OF, text_token

OLD_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?&.,:;-+/%$#@()=*_'"
OLD_COLORS = "red orange yellow green teal cyan blue navy purple pink brown beige white gray charcoal black".split()
OLD_VARIANTS = 7  # upper and lower cell of sans, serif and mono, then small type
NUM_OLD_TEXT = 2 * len(OLD_CHARS) * OLD_VARIANTS  # in white and in black
OLD_FIRST_BYTE = 2064
ALIKE = {'"': "'", "€": "$", "£": "$", "°": "*", "é": "e", "ä": "a", "ö": "o", "ü": "u"}


@torch.no_grad()
def carry_table(table: CodeTable, old: torch.Tensor) -> None:
    """Fill a table's parts from the first version's (vision vocabulary, hidden)."""
    text = old[:NUM_OLD_TEXT].view(2, len(OLD_CHARS), OLD_VARIANTS, -1).mean(0)
    variants = text.mean(0)
    spelt = text[:, [0, 2, 4, 6]].mean(1) - variants[[0, 2, 4, 6]].mean(0)
    for number, char in enumerate(CHARS):
        table.char[number] = spelt[OLD_CHARS.index(ALIKE.get(char, char))]
    for number, part in enumerate(PARTS):
        spells = part.row == 0 and part.column == 0
        like = [6] if part.size == "small" else [0, 2, 4] if spells else [1, 3, 5]
        table.part[number] = variants[like].mean(0)
    for number in range(len(table.style)):
        first = 2 * (number % 3)
        table.style[number] = variants[first : first + 2].mean(0) - variants[:6].mean(0)
    own = old[NUM_OLD_TEXT : NUM_OLD_TEXT + len(OLD_COLORS)]
    rgb = torch.tensor([PALETTE[name] for name in OLD_COLORS]) / 127.5 - 1
    rows = torch.cat([rgb, torch.ones(len(rgb), 1)], 1)
    fit = torch.linalg.solve(rows.T @ rows + 0.1 * torch.eye(4), rows.T @ own)
    table.color.copy_((fit[:3] / 16).repeat(16, 1))
    table.background.mul_(0.3).add_(fit[3])
    for name, vector, color in zip(OLD_COLORS, own, rgb, strict=True):
        table.background[COLORS.index(name)] = vector - color @ fit[:3]


@torch.no_grad()
def carry_prior(folder: Path, centres: np.ndarray) -> Prior:
    """Return the prior with the first version's layers and rebuilt tables."""
    state, prefix = load_file(folder / "vision_language_encoder/model.safetensors"), "model.language_model."
    prior = Prior(centres)
    layers = {
        k.removeprefix(prefix): v for k, v in state.items() if k.startswith((prefix + "layers.", prefix + "norm."))
    }
    prior.load_state_dict(layers, strict=False)
    embeddings = state[prefix + "embed_tokens.weight"].float()
    prior.text.copy_(embeddings[OLD_FIRST_BYTE:])
    carry_table(prior.codes, embeddings)
    carry_table(prior.head, state["lm_head.weight"].float())
    return prior


@torch.no_grad()
def glyph_latents(vae: AutoencoderKL) -> torch.Tensor:
    """Return the latents of every text cell, white on black, normalised, float32 (text tokens, 256)."""
    cells = np.zeros((NUM_TEXT_TOKENS, 64, 64), np.uint8)
    for char in CHARS:
        for size in SIZES:
            for style in STYLES_OF[size]:
                mask = glyph_mask(char, size, style)
                for part in (p for p in PARTS if p.size == size):
                    y, x = 32 * part.row, 32 * part.column
                    token = text_token(char, size, part.row, part.column, style)
                    cells[token, 16:48, 16:48] = mask[y : y + 32, x : x + 32]
    mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, 16, 1, 1)
    found = []
    for some in torch.from_numpy(cells).split(64):
        pictures = (some.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
        latents = (vae.encode(pictures).latent_dist.mode() - mean) / std
        found.append(latents[:, :, 2:6, 2:6].flatten(1))
    return torch.cat(found)


@torch.no_grad()
def carry_decoder(folder: Path, centres: np.ndarray, vae: AutoencoderKL) -> Decoder:
    """Return the decoder with the first version's blocks; its tokens are what their cells show."""
    decoder = Decoder(centres)
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    state.pop("prior_token_embedding.weight")
    decoder.dit.load_state_dict(state, strict=False)
    decoder.glyphs.load_state_dict(load_file(folder / "text_encoder/model.safetensors"), strict=False)
    glyphs = glyph_latents(vae)
    glyphs -= glyphs.mean(0)
    turned = glyphs @ torch.nn.init.orthogonal_(torch.empty(WIDTH, WIDTH))[: glyphs.shape[1]]
    decoder.embedding.glyph.copy_(turned / glyphs.std() * 0.6)
    # all but linear around 4, so that the latents reach the blocks as they are
    first, last = decoder.dit.prior_projector.net[0].proj, decoder.dit.prior_projector.net[2]
    for layer, bias in ((first, 4.0), (last, -4.0)):
        layer.weight.copy_(torch.eye(WIDTH))
        layer.bias.fill_(bias)
    return decoder


def main() -> None:
    """Write both, and the VAE as it is."""
    torch.manual_seed(0)
    RUNS.mkdir(exist_ok=True)
    words, _ = load_words()
    centres = load_codebook(CODEBOOK, words).centres
    vae = AutoencoderKL.from_pretrained(DESTINATION / "vae", torch_dtype=torch.float32)
    vae.save_pretrained(RUNS / "vae")
    torch.save(carry_prior(DESTINATION, centres).state_dict(), RUNS / "from_first_prior.pt")
    torch.save(carry_decoder(DESTINATION, centres, vae).state_dict(), RUNS / "from_first_decoder.pt")
    print("now: python prior.py --from runs/from_first_prior.pt, and decoder.py likewise")


if __name__ == "__main__":
    main()
