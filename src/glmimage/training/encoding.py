"""Pictures and captions as the networks read them, in the very form of inference.

Each function loads the networks it needs and lets them go, so that none of them is in memory while
an adapter is trained. What they return, after an event a picture, lies on the CPU.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GlmImageError, InvalidDataset
from ..loading.checkpoint import Checkpoint
from ..model.prior import upsample_prior
from ..prompt import get_glyph_texts
from .dataset import Example
from .progress import Encoded


@dataclass(frozen=True, eq=False)
class Written:
    """An example as the prior would write it.

    input_ids (S,): the prompt. tokens (N,): small grid, then large. position_ids (3, S + N).
    """

    input_ids: Tensor
    tokens: Tensor
    position_ids: Tensor
    large_tokens: Tensor
    large_grid: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Painted:
    """An example as the decoder would paint it.

    latents (C, H/8, W/8) normalised; prior_token_ids (H/16 * W/16,); glyph_embeds (T, E).
    """

    latents: Tensor
    prior_token_ids: Tensor
    glyph_embeds: Tensor
    height: int
    width: int


@torch.no_grad()
def read_tokens(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    device: torch.device,
    dtype: torch.dtype,
) -> Generator[Encoded, None, list[Written]]:
    """Read the prior tokens of every picture, at 1/32 and in the small grid, with its prompt."""
    prompt, vision = checkpoint.load_prompt(), checkpoint.load_vision(device, dtype)
    found = []
    for number, example in enumerate(examples, 1):
        try:
            inputs = prompt.encode(example.caption, example.height, example.width)
        except GlmImageError as error:
            raise InvalidDataset(
                f"The caption of {example.path.name!r} cannot be used: {error.message}",
                hint=error.hint,
            ) from None
        image = example.picture(example.prior_path)
        large = _tokens(vision, prompt.patches(image, inputs.large_grid), inputs.large_grid)
        parts = [large]
        if inputs.small_grid is not None:
            small = large
            if inputs.small_grid != inputs.large_grid:
                patches = prompt.patches(image, inputs.small_grid)
                small = _tokens(vision, patches, inputs.small_grid)
            parts.insert(0, small)
        positions = torch.cat([inputs.position_ids, inputs.decode_position_ids], dim=1)
        tokens = torch.cat(parts)
        found.append(Written(inputs.input_ids, tokens, positions, large, inputs.large_grid))
        yield Encoded("prior tokens", number, len(examples))
    return found


@torch.no_grad()
def encode_pictures(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    written: Sequence[Written],
    device: torch.device,
    dtype: torch.dtype,
) -> Generator[Encoded, None, list[Painted]]:
    """Encode every picture with the VAE, and the quoted texts of its caption."""
    vae, glyph = checkpoint.load_vae(device, dtype), checkpoint.load_glyph(device, dtype)
    found = []
    for number, (example, tokens) in enumerate(zip(examples, written, strict=True), 1):
        latents = vae.encode(example.picture(), (example.height, example.width))
        found.append(
            Painted(
                latents=latents.cpu(),
                prior_token_ids=upsample_prior(tokens.large_tokens, tokens.large_grid),
                glyph_embeds=glyph.encode(get_glyph_texts(example.caption)).cpu(),
                height=example.height,
                width=example.width,
            )
        )
        yield Encoded("latents", number, len(examples))
    return found


@torch.no_grad()
def empty_glyphs(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Encode no text, which guidance compares with: (T, E)."""
    return checkpoint.load_glyph(device, dtype).encode(()).cpu()


def _tokens(vision: torch.nn.Module, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    device = next(vision.parameters()).device
    (ids,) = vision(patches.to(device), torch.tensor([[1, *grid]]))
    tokens: Tensor = ids.cpu()
    return tokens
