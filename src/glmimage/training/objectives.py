"""What each part learns: the loss of a batch, in the form in which inference asks.

The prior is asked for every token of a picture after its prompt and the tokens before it. The
decoder is asked for the velocity between a picture's latents and noise, at the noise levels of the
schedule of its size; some are shown without tokens and glyphs, as guidance reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.dit import DiT
from ..model.prior import PriorModel
from ..model.schedule import make_schedule
from .encoding import Painted, Written

Item_contra = TypeVar("Item_contra", contravariant=True)
NUM_LEVELS = 1000
"""Noise levels that training draws from: the schedule of as many steps."""


class Objective(Protocol[Item_contra]):
    """Compute the loss of items of one shape; random numbers come from `generator` alone."""

    def loss(self, items: Sequence[Item_contra], generator: torch.Generator) -> Tensor: ...

    def shape(self, item: Item_contra) -> tuple[int, int]: ...


class PriorObjective:
    """Cross entropy of the tokens."""

    def __init__(self, prior: PriorModel) -> None:
        self.prior = prior

    def shape(self, item: Written) -> tuple[int, int]:
        return item.large_grid

    def loss(self, items: Sequence[Written], generator: torch.Generator) -> Tensor:
        """Return the mean over all tokens of the items."""
        device = self.prior.embed.weight.device
        # the last token is never read; sequences are filled up behind their end, where none looks
        rows = [torch.cat([item.input_ids, item.tokens[:-1]]) for item in items]
        longest = max(len(row) for row in rows)
        ids = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows]).to(device)
        positions = torch.stack(
            [
                F.pad(item.position_ids[:, : len(row)], (0, longest - len(row)))
                for item, row in zip(items, rows, strict=True)
            ]
        ).to(device)
        hidden = self.prior(self.prior.embed(ids), positions)
        losses = []
        for state, item in zip(hidden, items, strict=True):
            start = len(item.input_ids) - 1
            read = state[start : start + len(item.tokens)]
            logits = self.prior.head(read[None])[0].float()
            losses.append(F.cross_entropy(logits, item.tokens.to(device), reduction="sum"))
        return torch.stack(losses).sum() / sum(len(item.tokens) for item in items)


class DecoderObjective:
    """Flow matching: the squared error of the velocity."""

    def __init__(
        self, dit: DiT, scheduler_config: Mapping[str, Any], empty_glyphs: Tensor, drop: float
    ) -> None:
        self.dit, self.drop, self._empty = dit, drop, empty_glyphs
        self._scheduler_config = scheduler_config

    def shape(self, item: Painted) -> tuple[int, int]:
        return item.height, item.width

    def loss(self, items: Sequence[Painted], generator: torch.Generator) -> Tensor:
        """Return the mean over all latents of the items, which share a size."""
        device, count = self.dit.prior_embed.weight.device, len(items)
        height, width = self.shape(items[0])
        schedule = make_schedule(NUM_LEVELS, height, width, self._scheduler_config)
        levels = torch.randint(NUM_LEVELS, (count,), generator=generator)
        dropped = torch.rand(count, generator=generator) < self.drop
        latents = torch.stack([item.latents for item in items])
        noise = torch.randn(latents.shape, generator=generator)
        sigmas = schedule.sigmas[levels].view(-1, 1, 1, 1)
        noisy = (1 - sigmas) * latents + sigmas * noise
        glyphs = [
            self._empty if gone else item.glyph_embeds
            for item, gone in zip(items, dropped.tolist(), strict=True)
        ]
        embeds, mask = stack_glyphs(glyphs)
        size = torch.tensor([[height, width]] * count, device=device)
        velocity = self.dit(
            noisy.to(device),
            embeds.to(device),
            torch.stack([item.prior_token_ids for item in items]).to(device),
            dropped.to(device),
            schedule.model_timesteps[levels].to(device),
            size,
            torch.zeros_like(size),
            glyph_mask=None if mask is None else mask.to(device),
        )
        return F.mse_loss(velocity, (noise - latents).to(device))


def stack_glyphs(glyphs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return embeddings (B, T, E), and which of them are no filling (B, T), None when all."""
    lengths = torch.tensor([len(one) for one in glyphs])
    longest = int(lengths.max())
    embeds = torch.stack([F.pad(one, (0, 0, 0, longest - len(one))) for one in glyphs])
    if bool((lengths == longest).all()):
        return embeds, None
    return embeds, torch.arange(longest) < lengths[:, None]
