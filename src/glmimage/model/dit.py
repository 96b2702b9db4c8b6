"""The diffusion decoder: a transformer over glyph tokens and 16 px image patches.

Glyph tokens come first in the sequence and are not rotated. References are run once, without
glyphs at timestep 0, and are then read as extra keys and values by the conditional pass only.
Source of the numerics: diffusers' GlmImageTransformer2DModel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DitConfig
from .cpu import attend, linear, linear_parts, mlp
from .reference_cache import ReferenceCache
from .step_cache import StepCache

NORM_EPS = 1e-5
ROPE_THETA = 10000.0

# our name -> the checkpoint's names, concatenated on dim 0; {i} is the number of the layer
DIT_TENSORS: dict[str, tuple[str, ...]] = {
    f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs)
    for ours, theirs in {
        "patch_in": ["image_projector.proj"],
        "glyph_in": ["glyph_projector.net.0.proj"],
        "glyph_out": ["glyph_projector.net.2"],
        "prior_in": ["prior_projector.net.0.proj"],
        "prior_out": ["prior_projector.net.2"],
        "time_in": ["time_condition_embed.timestep_embedder.linear_1"],
        "time_out": ["time_condition_embed.timestep_embedder.linear_2"],
        "size_in": ["time_condition_embed.condition_embedder.linear_1"],
        "size_out": ["time_condition_embed.condition_embedder.linear_2"],
        "blocks.{i}.modulation": ["transformer_blocks.{i}.norm1.linear"],
        "blocks.{i}.qkv": [
            "transformer_blocks.{i}.attn1.to_q",
            "transformer_blocks.{i}.attn1.to_k",
            "transformer_blocks.{i}.attn1.to_v",
        ],
        "blocks.{i}.attention_out": ["transformer_blocks.{i}.attn1.to_out.0"],
        "blocks.{i}.ff_in": ["transformer_blocks.{i}.ff.net.0.proj"],
        "blocks.{i}.ff_out": ["transformer_blocks.{i}.ff.net.2"],
        "final_modulation": ["norm_out.linear"],
        "patch_out": ["proj_out"],
    }.items()
    for kind in ("weight", "bias")
} | {"prior_embed.weight": ("prior_token_embedding.weight",)}


@dataclass(frozen=True)
class Context:
    """What one pass of a picture keeps through all steps: text (B, T, D) and prior (B, N, D)."""

    text: Tensor
    prior: Tensor
    references: ReferenceCache | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Times:
    """One step's modulation: (B, 6, 2, D) a block, and (B, 2 * D) at the end."""

    blocks: tuple[Tensor, ...]
    final: Tensor


class DiT(nn.Module):
    """Predict the velocity (noise minus picture) of normalised latents."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config = config
        width, time_width = config.inner_dim, config.time_embed_dim
        patch_values = config.patch_size**2
        self.patch_in = nn.Linear(config.in_channels * patch_values, width)
        self.glyph_in = nn.Linear(config.text_embed_dim, width)
        self.glyph_out = nn.Linear(width, width)
        self.prior_embed = nn.Embedding(config.prior_vq_quantizer_codebook_size, width)
        self.prior_in = nn.Linear(width, width)
        self.prior_out = nn.Linear(width, width)
        self.time_in = nn.Linear(time_width, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.size_in = nn.Linear(4 * config.condition_dim, time_width)
        self.size_out = nn.Linear(time_width, time_width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_attention_heads, time_width) for _ in range(config.num_layers)
        )
        self.final_modulation = nn.Linear(time_width, 2 * width)
        self.patch_out = nn.Linear(width, config.out_channels * patch_values)
        self._rotary: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        latents: Tensor,
        glyph_embeds: Tensor,
        prior_token_ids: Tensor,
        prior_drop: Tensor,
        timestep: Tensor,
        target_size: Tensor,
        crop_coords: Tensor,
        glyph_mask: Tensor | None = None,
        reference_cache: ReferenceCache | None = None,
    ) -> Tensor:
        """Return the velocity (B, C, H, W), float32.

        latents (B, C, H, W); glyph_embeds (B, T, E); prior_token_ids (B, H/2 * W/2) at 16 px;
        prior_drop (B,) bool; timestep (B,) as the schedule gives it to the model; target_size
        and crop_coords (B, 2) as (height, width) in pixels; glyph_mask (B, T) bool, false on
        padding, None when there is none.
        """
        context = self.prepare(
            glyph_embeds, prior_token_ids, prior_drop, glyph_mask, reference_cache
        )
        times = self.prepare_times(timestep[None], target_size, crop_coords)
        return self.velocity(latents, context, times[0])

    def prepare(
        self,
        glyph_embeds: Tensor,
        prior_token_ids: Tensor,
        prior_drop: Tensor,
        glyph_mask: Tensor | None = None,
        reference_cache: ReferenceCache | None = None,
    ) -> Context:
        """Compute what stays the same at every step; arguments as in `forward`."""
        text = self._glyphs(glyph_embeds)
        return Context(
            text=text,
            prior=self._prior(prior_token_ids, prior_drop),
            references=reference_cache,
            mask=_key_mask(glyph_mask, text, prior_token_ids, reference_cache),
        )

    def prepare_times(
        self, timesteps: Tensor, target_size: Tensor, crop_coords: Tensor
    ) -> list[Times]:
        """Compute the modulation of all steps at once: timesteps (S, B), sizes (B, 2).

        B may be 1 for a batch whose rows share times and sizes.
        """
        steps, rows = timesteps.shape
        sizes = (size.repeat(steps, 1) for size in (target_size, crop_coords))
        condition = self._condition(timesteps.flatten(), *sizes)
        # (S, B, 6, 2, D): shift, scale, gate of the attention, then of the MLP; image before text
        shape = (steps, rows, 6, 2, self.config.inner_dim)
        layers = cast(Iterable[Block], self.blocks)
        blocks = [block.modulation(condition).view(shape).unbind(0) for block in layers]
        final = self.final_modulation(condition).view(steps, rows, -1).unbind(0)
        return [Times(tuple(block[step] for block in blocks), final[step]) for step in range(steps)]

    def velocity(
        self, latents: Tensor, context: Context, times: Times, steps: StepCache | None = None
    ) -> Tensor:
        """Return the velocity (B, C, H, W), float32, of latents (B, C, H, W)."""
        num_text, cache = context.text.shape[1], context.references
        image = self._patches(latents) + context.prior
        x, start = torch.cat([context.text, image], dim=1), image
        rotary = self._rotary_tables(latents, num_text)
        first = repeated = None
        for index, block in enumerate(self.blocks):
            past = None if cache is None else (cache.keys[index], cache.values[index])
            x, _ = block(x, num_text, times.blocks[index], rotary, context.mask, past)
            if steps is not None and index == 0:
                first, repeated = x[:, num_text:], steps.repeat(start, x[:, num_text:])
            if repeated is not None:
                break
        image = x[:, num_text:] if repeated is None else repeated
        if steps is not None and first is not None and repeated is None:
            steps.remember(first, image)
        scale, shift = times.final.chunk(2, dim=1)
        image = self.patch_out(_modulate_stream(image, shift, scale))
        return self._unpatch(image, latents).float()

    def encode_references(
        self,
        latents: Sequence[Tensor],
        prior_token_ids: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> ReferenceCache:
        """Run the references of one picture and keep their keys and values, in this order.

        For each: latents (C, H, W) normalised, ids (H/2 * W/2,), size (height, width) in pixels.
        """
        layers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.blocks]
        for latent, ids, size in zip(latents, prior_token_ids, sizes, strict=True):
            batch = latent[None]
            zero = torch.zeros(1, 2, device=latent.device)
            (times,) = self.prepare_times(zero[:, :1], torch.tensor([size]).to(zero), zero)
            x = self._patches(batch) + self._prior(ids[None], zero[:, 0].bool())
            rotary = self._rotary_tables(batch, 0)
            for block, modulation, kept in zip(self.blocks, times.blocks, layers, strict=True):
                x, key_value = block(x, 0, modulation, rotary, None, None)
                kept.append(key_value)
        keys, values = (
            tuple(torch.cat([pair[side] for pair in kept], dim=2) for kept in layers)
            for side in (0, 1)
        )
        return ReferenceCache(keys, values)

    @property
    def dtype(self) -> torch.dtype:
        return self.prior_embed.weight.dtype  # the one layer that never has adapters

    def _glyphs(self, glyph_embeds: Tensor) -> Tensor:
        return self.glyph_out(F.gelu(self.glyph_in(glyph_embeds.to(self.dtype))))

    def _patches(self, latents: Tensor) -> Tensor:
        """Embed the patches (B, N, D)."""
        size = self.config.patch_size
        batch, channels, height, width = latents.shape
        grid = latents.to(self.dtype).reshape(
            batch, channels, height // size, size, width // size, size
        )
        return self.patch_in(grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))

    def _prior(self, prior_token_ids: Tensor, prior_drop: Tensor) -> Tensor:
        """Embed the prior (B, N, D), which a dropped row has as zeros."""
        # multiplied, not indexed: a boolean index waits for the device
        prior = self.prior_embed(prior_token_ids) * ~prior_drop[:, None, None]
        return self.prior_out(F.silu(self.prior_in(prior)))

    def _unpatch(self, patches: Tensor, latents: Tensor) -> Tensor:
        size = self.config.patch_size
        batch, _, height, width = latents.shape
        grid = patches.reshape(batch, height // size, width // size, -1, size, size)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)

    def _condition(self, timestep: Tensor, target_size: Tensor, crop_coords: Tensor) -> Tensor:
        time = _sinusoids(timestep, self.config.time_embed_dim).to(self.dtype)
        sizes = torch.cat([crop_coords.float(), target_size.float()], dim=1)
        sizes = _sinusoids(sizes, self.config.condition_dim).flatten(1).to(self.dtype)
        time = self.time_out(F.silu(self.time_in(time)))
        return F.silu(time + self.size_out(F.silu(self.size_in(sizes))))

    def _rotary_tables(self, latents: Tensor, num_text: int) -> tuple[Tensor, Tensor]:
        """Return the tables of `_rotate` (num_text + N, 1, head_dim); text gets the identity."""
        height, width = (side // self.config.patch_size for side in latents.shape[-2:])
        key = (height, width, latents.device)
        tables = self._rotary.get(key)
        if tables is None:
            if len(self._rotary) >= 64:
                self._rotary.clear()
            tables = _rotary_table(*key, self.config.attention_head_dim, self.dtype)
            self._rotary[key] = tables
        cos, sin = tables
        if num_text:
            cos = torch.cat([torch.ones_like(cos[:1]).expand(num_text, -1, -1), cos])
            sin = torch.cat([torch.zeros_like(sin[:1]).expand(num_text, -1, -1), sin])
        return cos, sin


class Block(nn.Module):
    """Attend and transform both streams with shared weights and a modulation each."""

    def __init__(self, width: int, num_heads: int, time_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = nn.Linear(time_width, 12 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.ff_in = nn.Linear(width, 4 * width)
        self.ff_out = nn.Linear(4 * width, width)

    def forward(
        self,
        x: Tensor,
        num_text: int,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return both streams (B, T + N, D), text first, and this layer's own keys and values.

        modulation (B, 6, 2, D) is what `self.modulation` makes of the time; see `prepare_times`.
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.unbind(1)
        attended, key_value = self._attend(_modulate(x, num_text, shift, scale), rotary, mask, past)
        x = _add_gated(x, num_text, attended, gate)
        changed = mlp(_modulate(x, num_text, ff_shift, ff_scale), self.ff_in, self.ff_out)
        return _add_gated(x, num_text, changed, ff_gate), key_value

    def _attend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        width, heads = x.shape[-1], self.num_heads  # queries and keys lie side by side
        query_key, value = linear_parts(x, self.qkv, (2 * width, width))
        query_key = query_key.unflatten(2, (2 * heads, -1))
        turned = _rotate(F.layer_norm(query_key, query_key.shape[-1:], eps=NORM_EPS), *rotary)
        query, key = turned.transpose(1, 2).chunk(2, dim=1)  # (B, heads, T + N, head_dim)
        value = value.unflatten(2, (heads, -1)).transpose(1, 2)
        all_keys = key if past is None else torch.cat([past[0], key], dim=2)
        all_values = value if past is None else torch.cat([past[1], value], dim=2)
        attended = attend(query, all_keys, all_values, mask)
        return linear(attended.transpose(1, 2).flatten(2), self.attention_out), (key, value)


def _modulate(x: Tensor, num_text: int, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise, scale and shift both streams; shift and scale (B, 2, D), image before text."""
    modulated = _modulate_stream(x, shift[:, 0], scale[:, 0])
    if num_text:  # few: written over what the image's made of them
        modulated[:, :num_text] = _modulate_stream(x[:, :num_text], shift[:, 1], scale[:, 1])
    return modulated


def _add_gated(x: Tensor, num_text: int, change: Tensor, gate: Tensor) -> Tensor:
    """Add a change to both streams; gate (B, 2, D), image before text."""
    added = torch.addcmul(x, change, gate[:, :1])
    if num_text:
        added[:, :num_text] = torch.addcmul(x[:, :num_text], change[:, :num_text], gate[:, 1:])
    return added


def _modulate_stream(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    if len(shift) == 1 and x.device.type == "cpu":
        # one picture: the norm's own kernel scales and shifts (1.05 -> 0.37 ms at 1040 x 384)
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0], shift[0], NORM_EPS)
    return torch.addcmul(
        shift[:, None], F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale[:, None]
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i of (B, S, heads, D) with channel i + D / 2. x is overwritten."""
    turned = x.to(cos.dtype)
    partner = turned.roll(x.shape[-1] // 2, -1)
    return turned.mul_(cos).addcmul_(partner, sin).to(x.dtype)


def _rotary_table(
    height: int, width: int, device: torch.device, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what `_rotate` multiplies a channel and its partner with (height * width, 1, D).

    Half of the channels turn with the row, half with the column. In float32, but for bfloat16 on a
    CPU (0.9 -> 0.5 ms at 1040 tokens of 6 heads), whose error against float32 is the same.
    """
    axis = head_dim // 2
    frequencies = 1 / ROPE_THETA ** (torch.arange(0, axis, 2, dtype=torch.float32) / axis)
    rows = torch.outer(torch.arange(height), frequencies)[:, None].expand(-1, width, -1)
    columns = torch.outer(torch.arange(width), frequencies)[None].expand(height, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)[:, None].to(device)
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    if dtype != torch.bfloat16 or device.type != "cpu":
        return tables
    return tables[0].to(dtype), tables[1].to(dtype)


def _sinusoids(values: Tensor, width: int) -> Tensor:
    """Embed (...) numbers as (..., width): cosines, then sines, of falling frequencies."""
    half = width // 2
    # in this order, as the reference does: times 1000, the last bit of a frequency shows
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[..., None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _key_mask(
    glyph_mask: Tensor | None, text: Tensor, patches: Tensor, reference_cache: ReferenceCache | None
) -> Tensor | None:
    """Return which keys (references, glyphs, image) a row sees (B, 1, 1, K); None when all."""
    reference_mask = reference_cache.mask if reference_cache is not None else None
    if glyph_mask is None and reference_mask is None:
        return None  # no mask at all keeps the fastest attention kernels available
    parts = []
    if reference_cache is not None:
        seen = text.new_ones(len(text), reference_cache.num_tokens, dtype=torch.bool)
        parts.append(seen if reference_mask is None else reference_mask)
    seen = text.new_ones(text.shape[:2], dtype=torch.bool)
    parts.append(seen if glyph_mask is None else glyph_mask)
    parts.append(patches.new_ones(patches.shape[:2], dtype=torch.bool))
    return torch.cat(parts, dim=1)[:, None, None]
