"""The autoregressive model that writes prior tokens, and its cache of keys and values."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PriorConfig
from .layers import GatedMLP, Rotary, RowLinear, on_device, pad_rows, padding_of

_LAYER = "model.language_model.layers.{i}."
PRIOR_TENSORS: dict[str, tuple[str, ...]] = {
    "embed.weight": ("model.language_model.embed_tokens.weight",),
    "layers.{i}.norm_in.weight": (_LAYER + "input_layernorm.weight",),
    "layers.{i}.qkv.weight": tuple(f"{_LAYER}self_attn.{p}_proj.weight" for p in "qkv"),
    "layers.{i}.qkv.bias": tuple(f"{_LAYER}self_attn.{p}_proj.bias" for p in "qkv"),
    "layers.{i}.out.weight": (_LAYER + "self_attn.o_proj.weight",),
    "layers.{i}.norm_attention.weight": (_LAYER + "post_self_attn_layernorm.weight",),
    "layers.{i}.norm_mlp_in.weight": (_LAYER + "post_attention_layernorm.weight",),
    "layers.{i}.mlp.gate_up.weight": (_LAYER + "mlp.gate_up_proj.weight",),
    "layers.{i}.mlp.down.weight": (_LAYER + "mlp.down_proj.weight",),
    "layers.{i}.norm_mlp.weight": (_LAYER + "post_mlp_layernorm.weight",),
    "norm.weight": ("model.language_model.norm.weight",),
    "head.weight": ("lm_head.weight",),
}
"""Our parameter name -> the names in the public checkpoint, concatenated along dimension 0.

`{i}` stands for the layer number on both sides. Every parameter of a PriorModel has one entry.
"""


class KVCache:
    """Hold keys and values of many rows of different lengths; nothing grows while decoding.

    A row lives in one slot: `lengths[slot]` positions are filled, and its attention sees those
    only, so slots are taken, freed and reused at any step. lengths are Python integers, because
    every step needs them on the host.

    one_product: attend for all decoding rows at once, masked by length, instead of row by row.
    Right where launching kernels is what costs; on a CPU (the default there: False) a product a
    row costs less, and no row pays for the length of another.
    """

    def __init__(
        self,
        config: PriorConfig,
        num_slots: int,
        max_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_slots, self.max_length = num_slots, max_length
        self.num_kv_heads = config.num_kv_heads
        # keys, then values of one position lie side by side: one write a layer and step
        shape = (config.num_layers, num_slots, max_length, 2 * config.num_kv_heads, config.head_dim)
        self.buffer = _zeros(shape, torch.device(device), dtype)
        self.lengths = [0] * num_slots
        self.one_product = self.buffer.device.type != "cpu"

    @property
    def num_bytes(self) -> int:
        return self.buffer.numel() * self.buffer.element_size()

    def free(self, slot: int) -> None:
        """Forget a slot's row; its memory is overwritten by the next one."""
        self.lengths[slot] = 0

    def keys_values(self, layer: int, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Return views (1, kv_heads, length, head_dim) of what a slot holds."""
        filled = self.buffer[layer, slot : slot + 1, :length].transpose(1, 2)
        return filled[:, : self.num_kv_heads], filled[:, self.num_kv_heads :]


def _zeros(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros; on a CPU their memory is taken when it is written: most rows never are."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    # mapped: an allocator may give back what was freed, and clears it
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class _Append:
    """One forward pass over cached rows: where each writes, and how far each may look."""

    def __init__(self, cache: KVCache, slots: Sequence[int], count: int) -> None:
        self.cache, self.slots, self.count = cache, slots, count
        self.starts = [cache.lengths[slot] for slot in slots]
        if len(set(slots)) != len(slots):
            raise ValueError(f"a slot appears twice in one step: {list(slots)}")
        if max(self.starts) + count > cache.max_length:
            raise ValueError(
                f"{max(self.starts)} + {count} positions do not fit a cache of {cache.max_length}"
            )
        device = cache.buffer.device
        self.slot_index = on_device(slots, device)
        self.start_index = on_device(self.starts, device)
        if cache.one_product and count == 1:
            # rounded up: few different shapes, so few kernels to choose and memory plans to keep
            reach = min(-(-(max(self.starts) + 1) // 64) * 64, cache.max_length)
            positions = torch.arange(reach, device=device)
            self.mask = (positions <= self.start_index[:, None])[:, None, None]  # (B, 1, 1, reach)
            # neighbouring slots are read where they lie, others are gathered
            first, stop = slots[0], slots[0] + len(slots)
            neighbours = list(slots) == list(range(first, stop))
            self.where = slice(first, stop) if neighbours else self.slot_index

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Store kv (B, S, 2 * kv_heads, d), let q (B, S, heads, d) look; return (B, S, heads * d).

        q may have more rows than there are slots (see `pad_rows`): those get what row 0 gets.
        """
        if self.count > 1:
            rows = [self._prefill(layer, row, q, kv) for row in range(len(self.slots))]
            return torch.cat(rows)
        store = self.cache.buffer[layer]
        store.index_put_((self.slot_index, self.start_index), kv[: len(self.slots), 0])
        kv_heads = self.cache.num_kv_heads
        # one query a row: the heads that share keys become the query length, nothing is repeated
        grouped = q.view(q.shape[0], kv_heads, -1, q.shape[-1])
        if self.cache.one_product:
            # row 0's padding copies have no slot of their own
            grouped = grouped[: len(self.slots)]
            seen = store[self.where, : self.mask.shape[-1]].transpose(1, 2)
            out = F.scaled_dot_product_attention(
                grouped, seen[:, :kv_heads], seen[:, kv_heads:], attn_mask=self.mask
            )
            parts = [out]
        else:
            parts = [self._decode(layer, row, grouped) for row in range(len(self.slots))]
        parts += [parts[0][:1]] * (q.shape[0] - len(self.slots))
        return torch.cat(parts).reshape(q.shape[0], 1, -1)

    def _decode(self, layer: int, row: int, grouped: Tensor) -> Tensor:
        keys, values = self.cache.keys_values(layer, self.slots[row], self.starts[row] + 1)
        return F.scaled_dot_product_attention(grouped[row : row + 1], keys, values)

    def _prefill(self, layer: int, row: int, q: Tensor, kv: Tensor) -> Tensor:
        slot, start = self.slots[row], self.starts[row]
        end = start + self.count
        self.cache.buffer[layer, slot, start:end] = kv[row]
        keys, values = self.cache.keys_values(layer, slot, end)
        mask = None
        if start:
            mask = torch.ones(self.count, end, dtype=torch.bool, device=q.device).tril(start)
        return attend(q[row : row + 1], keys, values, mask)

    def finish(self) -> None:
        for slot, start in zip(self.slots, self.starts, strict=True):
            self.cache.lengths[slot] = start + self.count


class _Alone:
    """One forward pass without a cache: every row is a whole sequence."""

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        keys, values = kv.transpose(1, 2).chunk(2, dim=1)
        return attend(q, keys, values)

    def finish(self) -> None:
        pass


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend causally, or as `mask` (S, L) says; return (B, S, heads * d).

    q (B, S, heads, d); keys and values (B, kv_heads, L, d).
    """
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=q.shape[2] != keys.shape[1],
    )
    return out.transpose(1, 2).flatten(2)


class PriorLayer(nn.Module):
    """Attention and MLP, each between a norm before it and a norm after it."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        width, eps, dim = config.hidden_size, config.rms_norm_eps, config.head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            dim,
        )
        num_rows = (config.num_heads + 2 * config.num_kv_heads) * dim
        self.norm_in = nn.RMSNorm(width, eps)
        self.qkv = RowLinear(width, num_rows, bias=config.attention_bias)
        self.out = RowLinear(config.num_heads * dim, width, bias=False)
        self.norm_attention = nn.RMSNorm(width, eps)
        self.norm_mlp_in = nn.RMSNorm(width, eps)
        self.mlp = GatedMLP(width, config.intermediate_size)
        self.norm_mlp = nn.RMSNorm(width, eps)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        tables: tuple[Tensor, Tensor],
        step: _Append | _Alone,
        layer: int,
    ) -> Tensor:
        qkv = self.project(x, rotary, *tables)
        q, kv = qkv[:, :, : self.num_heads], qkv[:, :, self.num_heads :]
        return self.complete(x, step.attend(layer, q, kv))

    def project(self, x: Tensor, rotary: Rotary, cos: Tensor, sin: Tensor) -> Tensor:
        """Return queries, keys and values (B, S, heads + 2 * kv_heads, d), turned."""
        qkv = self.qkv(self.norm_in(x)).unflatten(-1, (-1, self.head_dim))
        rotary.rotate_(qkv[:, :, : self.num_heads + self.num_kv_heads], cos, sin)
        return qkv

    def complete(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's output (B, S, D) for what its queries found (B, S, heads * d)."""
        x = x + self.norm_attention(self.out(attended))
        return x + self.norm_mlp(self.mlp(self.norm_mlp_in(x)))


class PriorModel(nn.Module):
    """Predict prior tokens: embed -> forward -> logits of the next token."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(PriorLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = RowLinear(config.hidden_size, config.vision_vocab_size, bias=False)
        self._rotary = Rotary(config)

    def forward(
        self,
        embeds: Tensor,
        position_ids: Tensor,
        cache: KVCache | None = None,
        slots: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states (B, S, D) of embeds (B, S, D) at position_ids (B, 3, S).

        With a cache, row b continues slot `slots[b]` (default 0 .. B - 1; a tensor should be on
        the CPU) and its S positions are kept there. S > 1 writes a prompt, S = 1 decodes one
        token for each row; a row's result does not depend on the other rows. ValueError when the
        cache is too short.
        """
        rows, count = embeds.shape[:2]
        step: _Append | _Alone = _Alone()
        if cache is not None:
            chosen = range(rows) if slots is None else slots
            chosen = chosen.tolist() if isinstance(chosen, Tensor) else list(chosen)
            step = _Append(cache, chosen, count)
            if count == 1:
                missing = padding_of(embeds)
                embeds, position_ids = pad_rows(embeds, missing), pad_rows(position_ids, missing)
        tables = self._rotary.tables(position_ids, embeds.dtype)
        x = embeds
        for index, layer in enumerate(self.layers):
            x = layer(x, self._rotary, tables, step, index)
        step.finish()
        return self.norm(x)[:rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 scores (B, vision_vocab_size) of the next token for hidden (B, D)."""
        padded = pad_rows(hidden, padding_of(hidden))
        return self.head(padded[:, None])[: hidden.shape[0], 0].float()


def upsample_prior(prior_token_ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """Double a grid (h, w) of prior tokens (..., h * w) to the (..., 4 * h * w) the decoder reads.

    Each token becomes a 2 x 2 block: 1/32 of the picture's side to 1/16.
    """
    ids = prior_token_ids.unflatten(-1, grid)
    return ids.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1).flatten(-2)
