"""The prior on a CPU: weights packed once, a window of positions for each row in one pass.

Numerically the same network as PriorModel, to rounding; a row's result does not depend, to the last
bit, on the rows beside it: oneDNN's packed float32 products give each row the same sums whatever
their number is (measured, 1 to 64 rows, AVX512). Per pass of nano on one core: from 1.6 ms for the
products at 4 rows, padded, to 1.5 ms, and at 16 rows from 4.7 ms to 2.5 ms; the many short
operations around them from 2.7 ms to under 1 ms.

The products can be in bfloat16, which the checkpoint's weights are anyway: reading the weights is
what a pass costs, and they are half as many bytes (a pass of nano's ten layers on a core with AMX:
10.1 ms -> 7.5 ms). Whether rows are independent of each other there is tried on the processor at
hand. Windows attend in the number format of the cache; all else, a prompt too, stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model.prior import KVCache, PriorLayer, PriorModel, attend
from .thread_choice import cpu_threads

Window = tuple[int, int, int, Tensor | None]
"""(slot, start, count, mask) of the positions of one row that a pass reads."""


class _Pass(NamedTuple):
    """The windows of a pass.

    is_prompt: one row, from its beginning on; without a mask, which would be large.
    """

    windows: list[Window]
    is_prompt: bool


# The number of rows the packing is made for; other numbers take the same kernel.
_PACKED_ROWS = 16
# Longer sums are cut up by the number of rows in bfloat16 (measured: from 512 on, AMX).
_MAX_BFLOAT16_SUM = 384
_SERIAL_VALUES = 32768
# Numbers of rows that are tried: around the sides of the kernels' tiles, up to 16 windows of 32.
_TRIED_ROWS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 128, 129, 256, 512)


def can_pack(prior: PriorModel) -> bool:
    """Whether this processor multiplies packed float32 weights."""
    weight = prior.embed.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class _Linear:
    """A linear layer with its weight packed, and the weight of the norm before it.

    In float32 the norm's weight is multiplied in; in bfloat16, which would round the product, it
    scales what comes in. What comes out is float32 unless it goes on in bfloat16.
    """

    def __init__(self, layer: nn.Linear, products: torch.dtype, norm: Tensor | None = None) -> None:
        weight = layer.weight.detach()
        self.scale, self.width = norm, weight.shape[1]
        if norm is not None and products == torch.float32:
            weight, self.scale = weight * norm, None
        self.products = products
        num_parts = 1 if products == torch.float32 else -(-weight.shape[1] // _MAX_BFLOAT16_SUM)
        self.weights = [
            torch.ops.mkldnn._reorder_linear_weight(part.to(products).contiguous(), _PACKED_ROWS)
            for part in weight.tensor_split(num_parts, dim=1)
        ]
        self.bias = None if layer.bias is None else layer.bias.detach().to(products)

    def __call__(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = x * self.scale
        x = x.to(self.products)
        if len(self.weights) == 1:
            return _product(x, self.weights[0], self.bias)
        first, *others = x.tensor_split(len(self.weights), dim=1)
        out = _product(first, self.weights[0], self.bias).float()
        for part, weight in zip(others, self.weights[1:], strict=True):
            out += _product(part, weight, None)
        return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # its overload, which need not be looked for at every call
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


class _Layer:
    def __init__(self, layer: PriorLayer, root: float, products: torch.dtype) -> None:
        self.qkv = _Linear(layer.qkv, products, layer.norm_in.weight.detach() * root)
        self.out = _Linear(layer.out, products)
        self.norm_attention = layer.norm_attention.weight.detach() * root
        scale = layer.norm_mlp_in.weight.detach() * root
        self.gate_up = _Linear(layer.mlp.gate_up, products, scale)
        self.down = _Linear(layer.mlp.down, products)
        self.norm_mlp = layer.norm_mlp.weight.detach() * root


def pack(prior: PriorModel, products: torch.dtype) -> PackedPrior:
    """Return the prior with its products in a number format, or in float32 where rows would differ.

    It is bfloat16 that needs to be tried: some numbers of rows can make a kernel cut up its sums.
    """
    if products != torch.float32:
        packed = PackedPrior(prior, products)
        if packed.rows_are_independent():
            return packed
    return PackedPrior(prior)


class PackedPrior:
    """Continue cached rows by several positions each; `prior` keeps embedding and reading prompts.

    products: the number format of the weights and of what they are multiplied with. The norms are
    divisions by vector norms here, the root of the width inside the next layer, and with it their
    weights where products are float32: a fourth of the operations.
    """

    def __init__(self, prior: PriorModel, products: torch.dtype = torch.float32) -> None:
        config = prior.config
        root = config.hidden_size**0.5
        self.config, self._rotary = config, prior._rotary
        self.products = products
        self._layers = [_Layer(layer, root, products) for layer in _layers(prior)]
        self._head = _Linear(prior.head, products, prior.norm.weight.detach() * root)
        self._floor = torch.tensor((config.hidden_size * config.rms_norm_eps) ** 0.5)
        self._mask_table = torch.empty(0, 0)

    @torch.inference_mode()
    def rows_are_independent(self) -> bool:
        """Try whether every linear layer gives a row the same, to the last bit, in any company.

        And on one thread as on all.
        """
        layer = self._layers[0]
        generator = torch.Generator().manual_seed(0)
        for linear in (layer.qkv, layer.out, layer.gate_up, layer.down, self._head):
            x = torch.randn(_TRIED_ROWS[-1], linear.width, generator=generator)
            together = linear(x)
            for count in _TRIED_ROWS:
                if not torch.equal(linear(x[:count]), together[:count]):
                    return False
                with cpu_threads(1):
                    last = linear(x[-count:])
                if not torch.equal(last, together[-count:]):
                    return False
        return True

    def logits(
        self,
        embeds: Tensor,
        position_ids: Tensor,
        cache: KVCache,
        slots: Sequence[int],
        counts: Sequence[int],
    ) -> Tensor:
        """Return the logits (R, V), in `products`, after each of the R = sum(counts) positions.

        embeds (R, D) and position_ids (R, 3): `counts[i]` positions that continue `slots[i]`. They
        are stored behind `cache.lengths[slot]`, which is left for the caller to move.
        """
        step = self._plan(cache, slots, counts)
        return self._scores(self._run(embeds, position_ids.t(), cache, step))

    def read_prompt(
        self, embeds: Tensor, position_ids: Tensor, cache: KVCache, slot: int
    ) -> Tensor:
        """Write a prompt into an empty slot; return the logits (1, V) after its end.

        embeds (S, D), position_ids (3, S). The sums are those of `logits`, but for the attention's.
        """
        cache.free(slot)
        hidden = self._run(embeds, position_ids, cache, self._plan(cache, [slot], [len(embeds)]))
        cache.lengths[slot] = len(embeds)
        return self._scores(hidden[-1:])

    def _scores(self, x: Tensor) -> Tensor:
        return self._head(x / self._norm(x))

    def _run(self, embeds: Tensor, position_ids: Tensor, cache: KVCache, step: _Pass) -> Tensor:
        """Return the hidden states (R, D), before the last norm."""
        cos, sin = self._rotary.tables(position_ids[None], embeds.dtype)
        x = embeds
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(x / self._norm(x)).float().view(x.shape[0], -1, self.config.head_dim)
            turned = qkv[:, : self.config.num_heads + self.config.num_kv_heads]
            self._rotary.rotate_(turned, cos[0], sin[0])
            attended = self._attend(qkv, cache.buffer[index], step)
            y = layer.out(attended)
            x = torch.addcmul(x, y / self._norm(y), layer.norm_attention)
            gate, up = layer.gate_up(x / self._norm(x)).chunk(2, dim=-1)
            y = layer.down(_silu(gate).mul_(up))
            x = torch.addcmul(x, y / self._norm(y), layer.norm_mlp)
        return x

    def _norm(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.hypot(length, self._floor)

    def _plan(self, cache: KVCache, slots: Sequence[int], counts: Sequence[int]) -> _Pass:
        """Return the rows' windows; the mask hides what comes later."""
        is_prompt = len(slots) == 1 and not cache.lengths[slots[0]]
        windows: list[Window] = []
        for slot, count in zip(slots, counts, strict=True):
            start = cache.lengths[slot]
            if start + count > cache.max_length:
                raise ValueError(
                    f"{start} + {count} positions do not fit a cache of {cache.max_length}"
                )
            hides = count > 1 and not is_prompt
            mask = self._mask(start, count, cache) if hides else None
            windows.append((slot, start, count, mask))
        return _Pass(windows, is_prompt)

    def _mask(self, start: int, count: int, cache: KVCache) -> Tensor:
        """Return (1, 1, count * groups, start + count): 0 where a query may look, else -inf.

        A slice of one table: only where the table is cut depends on `start`.
        """
        groups = self.config.num_heads // self.config.num_kv_heads
        max_length, dtype = cache.max_length, cache.buffer.dtype
        rows, columns = self._mask_table.shape
        fits = columns == max_length + rows // groups and self._mask_table.dtype == dtype
        if rows < count * groups or not fits:
            most = max(count, rows // groups)
            table = torch.full((most, max_length + most), -torch.inf).triu(max_length + 1)
            self._mask_table = table.repeat_interleave(groups, 0).to(dtype)
        offset = max_length - start
        return self._mask_table[None, None, : count * groups, offset : offset + start + count]

    def _attend(self, qkv: Tensor, store: Tensor, step: _Pass) -> Tensor:
        """Store keys and values, let the queries look; return (R, heads * head_dim).

        What lies differently in memory is laid out for all rows at once: a row is a few calls of
        microseconds otherwise. Storing is as fast row by row.
        """
        num_heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        groups = num_heads // kv_heads
        first = 0
        for slot, start, count, _ in step.windows:
            store[slot, start : start + count] = qkv[first : first + count, num_heads:]
            first += count
        if step.is_prompt:
            keys, values = qkv[:, num_heads:].transpose(0, 1)[None].chunk(2, dim=1)
            return attend(qkv[None, :, :num_heads], keys, values)[0]
        # the heads that share keys become more queries of one head
        width = self.config.head_dim
        queries = qkv[:, :num_heads].to(store.dtype).reshape(-1, kv_heads, groups, width)
        # (1, kv_heads, R * groups, d)
        queries = queries.transpose(0, 1).reshape(1, kv_heads, -1, width)
        parts, first = [], 0
        for slot, start, count, mask in step.windows:
            stop = first + count * groups
            seen = store[slot, : start + count].transpose(0, 1)[None]
            out = F.scaled_dot_product_attention(
                queries[:, :, first:stop], seen[:, :kv_heads], seen[:, kv_heads:], attn_mask=mask
            )
            parts.append(out[0].transpose(0, 1))  # lies in memory like this
            first = stop
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        found = found.view(-1, groups, kv_heads, width)
        return found.transpose(1, 2).reshape(len(qkv), -1)


def _silu(gate: Tensor) -> Tensor:
    """Return SiLU of (R, D), which rounds the same in any company and on any number of threads.

    PyTorch shares out what is larger than this many values, anywhere in a row, and computes the
    ends of the shares by other instructions than the rest.
    """
    most = max(_SERIAL_VALUES // gate.shape[1], 1)
    if len(gate) <= most:
        return F.silu(gate)
    return torch.cat([F.silu(part) for part in gate.split(most)])


def _layers(prior: PriorModel) -> list[PriorLayer]:
    return [layer for layer in prior.layers if isinstance(layer, PriorLayer)]
