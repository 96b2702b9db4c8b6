"""Train nano's semantic tokenizer: the vision encoder and codebook that turn a reference picture into prior tokens.

The ids are fixed beforehand (renderer.py), so that the prior and the decoder need not wait for this stage: the
encoder learns to name each cell as the renderer does. It sees one cell at a time (position embedding and the first
layer's attention are zero), hence the same id wherever the cell stands, and no distances to the type. The last layer's
attention asks the same of all cells, and tells every one what it found: the ink, which plain cells name.
Most of what it sees are small pictures put together on the device, every part of every glyph equally often, in any two
colours; drawn pictures come with them.
Measured on one CPU core, begun with the version before: of cells of type put together here .90 right after 42 minutes,
6480 steps, of those of drawn designs .98, inks of drawn designs .81.
"""

import argparse
import io
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from code_table import CodeTable
from designs import load_codebook, load_words, text_wall
from PIL import Image
from renderer import (
    BACKGROUND_FEATURE_SIDE,
    BackgroundCodebook,
    Design,
    background_features,
    draw,
    glyph_mask,
    source_tokens,
    visible_parts,
)
from torch import nn
from training import CODEBOOK, DEVICE, Run, autocast
from type_tokens import (
    CHARS,
    CODEBOOK_SIZE,
    COLORS,
    FIRST_BACKGROUND,
    FIRST_COLORED,
    FIRST_COLORLESS,
    INK,
    NUM_MESSAGES,
    NUM_TEXT_TOKENS,
    PALETTE,
    STYLES_OF,
    text_token,
)
from vae import random_design, random_shapes, random_texture

VISION_CONFIG = {
    "hidden_size": 192,
    "depth": 2,
    "num_heads": 4,
    "intermediate_size": 384,
    "patch_size": 16,
    "image_size": 64,
    "in_channels": 3,
    "attention_bias": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "spatial_merge_size": 1,
}
CODE_DIM = 64
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CellEncoder(nn.Module):
    """Patch embedding, MLP blocks and projection of the reference's vision encoder, and the codebook."""

    def __init__(self, centres: np.ndarray):
        super().__init__()
        hidden, inner = VISION_CONFIG["hidden_size"], VISION_CONFIG["intermediate_size"]
        self.patch = nn.Linear(3 * 16 * 16, hidden)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm2": nn.LayerNorm(hidden, eps=VISION_CONFIG["layer_norm_eps"]),
                    "fc1": nn.Linear(hidden, inner),
                    "fc2": nn.Linear(inner, hidden),
                }
            )
            for _ in range(VISION_CONFIG["depth"])
        )
        # the last layer's attention with one query for all: how much each cell counts, a score a head
        self.norm1 = nn.LayerNorm(hidden, eps=VISION_CONFIG["layer_norm_eps"])
        self.scores = nn.Linear(hidden, VISION_CONFIG["num_heads"])
        self.values, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.quant_conv = nn.Linear(hidden, CODE_DIM)
        # what tokens name is learnt together: six thousand of them stand for glyphs, most of which are rare
        self.table = CodeTable(centres, 1.0, CODE_DIM)

    @property
    def codes(self) -> torch.Tensor:
        """Return the codebook, unit vectors (CODEBOOK_SIZE, 64)."""
        return F.normalize(self.table.merged()[:CODEBOOK_SIZE], dim=-1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (P, N, 64) of P pictures' half-resolution patches (P, N, 768), channels first."""
        x = self.patch(patches)
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) - 1:
                x = x + self.found(x)
            x = x + block["fc2"](F.gelu(block["fc1"](block["norm2"](x))))
        return F.normalize(self.quant_conv(x), dim=-1)

    def found(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last layer's attention finds in each picture, (P, 1, hidden)."""
        x = self.norm1(x)
        shares = self.scores(x).softmax(1)  # (P, N, heads)
        values = self.values(x).unflatten(-1, (shares.shape[-1], -1))
        return self.out(torch.einsum("pnh,pnhd->phd", shares, values).flatten(1))[:, None]


class SourceReader:
    """Reads pictures as the checkpoint reads references: every cell gets the token of the nearest code.

    Pictures are read as they come: painted or kept as JPEG, they are not as clean as they are drawn.
    """

    def __init__(self, encoder: CellEncoder):
        self.encoder = encoder.cpu().eval().requires_grad_(False)
        self.codes = encoder.codes.detach()

    def read(self, design: Design, rng: random.Random) -> np.ndarray:
        """Return the tokens of a drawn design, int64 (rows, columns)."""
        picture = draw(design)
        kind = rng.random()
        if kind < 0.35:
            noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 8), picture.shape)
            picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
        elif kind < 0.7:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "jpeg", quality=rng.randrange(70, 96))
            picture = np.asarray(Image.open(file))
        names = (self.encoder(patches_of(picture)[None])[0] @ self.codes.T).argmax(-1)
        return names.numpy().reshape(design.num_rows, design.num_columns)


def patches_of(picture: np.ndarray) -> torch.Tensor:
    """Cut a picture, uint8 (H, W, 3), into half-resolution patches as the processor does: float32 (cells, 768)."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    half = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    half = (half - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    blocks = half.reshape(height // 16, 16, width // 16, 16, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(blocks)).reshape(-1, 768)


def sample(rng: random.Random, words: list[str], codebook: BackgroundCodebook) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a picture of 8 x 8 cells or a whole design and return its patches (N, 768) and tokens (N,)."""
    kind = rng.random()
    if kind < 0.2:
        design = text_wall(rng.getrandbits(40), words, 8, 8)
    elif kind < 0.7:
        design = random_design(rng.getrandbits(40), words)
    else:
        picture = random_shapes(rng, 8)[:256, :256] if kind < 0.85 else random_texture(rng, 256)
        return patches_of(picture), torch.from_numpy(codebook.tokens(background_features(picture, 32)).ravel())
    return patches_of(draw(design)), torch.from_numpy(source_tokens(design, codebook).ravel())


def glyph_cells() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coverage of every part of every glyph that can be seen, float32 (N, 16, 16), and its token (N,)."""
    masks, tokens = [], []
    for size, styles in STYLES_OF.items():
        for style in styles:
            for char in CHARS:
                mask = Image.fromarray(glyph_mask(char, size, style))
                half = np.asarray(mask.resize((mask.width // 2, mask.height // 2), Image.Resampling.BICUBIC))
                for r, c in visible_parts(char, size, style):
                    masks.append(half[16 * r : 16 * (r + 1), 16 * c : 16 * (c + 1)])
                    tokens.append(text_token(char, size, r, c, style))
    return torch.from_numpy(np.stack(masks).astype(np.float32) / 255), torch.tensor(tokens)


class TypePictures:
    """Small pictures of cells of type and plain ones, in two colours that differ; some grounds are gradients."""

    def __init__(self, codebook: BackgroundCodebook) -> None:
        centres = torch.from_numpy(codebook.centres).to(DEVICE)
        self.centres, self.half_norms = centres, torch.from_numpy(codebook.half_norms).to(DEVICE)
        self.masks, self.tokens = (t.to(DEVICE) for t in glyph_cells())
        self.palette = torch.tensor(list(PALETTE.values()), device=DEVICE).float() / 255
        self.mean, self.std = (torch.tensor(v, device=DEVICE).view(1, 1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))

    def _colors(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return colours (count, 3) and their numbers in the palette, -1 of those that are not in it."""
        number = torch.randint(len(self.palette), (count,), device=DEVICE)
        is_named = torch.rand(count, device=DEVICE) < 0.8
        color = torch.where(is_named[:, None], self.palette[number], torch.rand(count, 3, device=DEVICE))
        return color, torch.where(is_named, number, -1)

    def draw(self, count: int, num_cells: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patches (count, num_cells, 768) and their tokens (count, num_cells), -1 where none is known."""
        which = torch.randint(len(self.masks), (count, num_cells), device=DEVICE)
        # some pictures are full of type, others have one letter
        is_plain = torch.rand(count, num_cells, device=DEVICE) < torch.rand(count, 1, device=DEVICE) - 0.05
        mask = torch.where(is_plain[..., None, None], 0.0, self.masks[which])[:, :, None]
        (ink, ink_number), (ground, _), (end, _) = (self._colors(count) for _ in range(3))
        weights = torch.tensor([0.299, 0.587, 0.114], device=DEVICE)
        # some grounds are gradients, in which every cell lies elsewhere between two colours
        is_gradient = torch.rand(count, 1, 1, device=DEVICE) < 0.3
        end = torch.where(is_gradient, end[:, None], ground[:, None])
        is_near = ((ink - 0.5 * (ground + end[:, 0])) @ weights).abs() < 0.2
        is_dark = (ground + end[:, 0]) @ weights < 1.0
        extreme = torch.where(is_dark, COLORS.index("white"), COLORS.index("black"))
        ink_number = torch.where(is_near, extreme, ink_number)
        ink = torch.where(is_near[:, None], self.palette[extreme], ink)
        is_ramp = torch.rand(count, device=DEVICE) < 0.3
        steep = torch.rand(count, 1, device=DEVICE).square() * is_ramp[:, None]
        slope = (torch.rand(count, 3, device=DEVICE) - 0.5) * steep
        slope = slope[:, None] + (end - ground[:, None]) / 16  # a gradient of 16 rows
        ground = torch.lerp(ground[:, None], end, torch.rand(count, num_cells, 1, device=DEVICE))
        ramp = slope[..., None, None] * torch.linspace(-0.5, 0.5, 16, device=DEVICE).view(16, 1)
        ground, ink = ground[..., None, None], ink[:, None, :, None, None]
        picture = ground + ramp + (ink - ground - ramp) * mask
        side = BACKGROUND_FEATURE_SIDE
        means = (ground + ramp).expand(-1, num_cells, -1, 16, 16).unflatten(-1, (side, -1)).unflatten(-3, (side, -1))
        features = means.mean((-3, -1)).flatten(0, 1).movedim(1, -1).flatten(1)
        nearest = (features @ self.centres.T - self.half_norms).argmax(1).view(count, num_cells)
        # a picture that was painted, or kept as JPEG, is not clean
        noise = torch.rand(count, 1, 1, 1, 1, device=DEVICE).square() * 0.05
        picture = (picture + noise * torch.randn(picture.shape, device=DEVICE)).clamp(0, 1)
        # where plain cells have a colour of the palette they name the ink, as in renderer.source_tokens
        ink_number = ink_number[:, None]
        names_ink = (nearest < len(COLORS)) & ~is_plain.all(1, keepdim=True)
        says = torch.where(ink_number >= 0, FIRST_COLORED + NUM_MESSAGES * nearest + INK + ink_number, -1)
        says = torch.where(names_ink, says, FIRST_BACKGROUND + nearest)
        tokens = torch.where(is_plain, says, self.tokens[which])
        return ((picture - self.mean) / self.std).flatten(2), tokens


def main() -> None:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from", dest="source", type=Path, help="weights to begin with, as warm_start.py writes them")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, _ = load_words()
    codebook = load_codebook(CODEBOOK, words)
    encoder = CellEncoder(codebook.centres)
    if args.source:
        encoder.load_state_dict(torch.load(args.source, weights_only=True))
    encoder.to(DEVICE)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    run = Run("tokenizer", args.minutes, {"encoder": encoder}, [optimizer])
    rng, type_pictures = random.Random(run.num_steps), TypePictures(codebook)
    torch.manual_seed(run.num_steps)
    for _ in run.steps():
        batches = [
            type_pictures.draw(64, 24),
            *(tuple(t.to(DEVICE)[None] for t in sample(rng, words, codebook)) for _ in range(2)),
        ]
        with autocast():
            vectors = [encoder(patches) for patches, _ in batches]
            targets = torch.cat([t.flatten() for _, t in batches])
            known = targets >= 0
            targets = targets[known]
            logits = 30 * torch.cat([v.flatten(0, 1) for v in vectors])[known] @ encoder.codes.T
        # Plain cells repeat: each distinct answer of a batch counts by the root of its number.
        counts = torch.bincount(targets, minlength=CODEBOOK_SIZE)[targets].float()
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        loss = (losses * counts.rsqrt()).sum() / counts.rsqrt().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        run.num_samples += len(targets)
        if run.num_steps % 200 == 0:
            right, is_text = logits.argmax(-1) == targets, targets < NUM_TEXT_TOKENS
            says_ink = (targets >= FIRST_COLORED) & (targets < FIRST_COLORLESS)
            groups = {"text": is_text, "ink": says_ink, "other": ~is_text & ~says_ink}
            run.log(loss=loss.item(), **{k: right[v].float().mean().item() for k, v in groups.items()})


if __name__ == "__main__":
    main()
