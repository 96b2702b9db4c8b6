"""One decode step of the prior as a CUDA graph: the host launches one graph instead of each kernel.

What changes between steps (tokens, positions, slots, lengths) is copied into fixed tensors before
the graph is replayed. Rows and reach are rounded up, so that few graphs serve all steps; what is
beyond a row's length is masked. Elsewhere than on CUDA the same step runs kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .model.prior import KVCache, PriorLayer, PriorModel

REACH_STEP = 512
MAX_GRAPHS = 32


class _Step:
    """Fixed tensors of one step; `attend` is what a PriorLayer asks of its step.

    Rows beyond the real ones repeat row 0: they write the same values to the same place.
    """

    def __init__(self, cache: KVCache, rows: int, reach: int) -> None:
        device = cache.buffer.device
        self.cache, self.reach = cache, reach
        self.tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self.positions = torch.zeros(rows, 3, 1, dtype=torch.long, device=device)
        self.slots = torch.zeros(rows, dtype=torch.long, device=device)
        self.starts = torch.zeros(rows, dtype=torch.long, device=device)
        self._keys = torch.arange(reach, device=device)
        self.mask = torch.zeros(rows, 1, 1, reach, dtype=torch.bool, device=device)

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Store kv (B, 1, 2 * kv_heads, d), let q (B, 1, heads, d) look; (B, 1, heads * d)."""
        store, heads = self.cache.buffer[layer], self.cache.num_kv_heads
        store.index_put_((self.slots, self.starts), kv[:, 0])
        seen = store[:, : self.reach].index_select(0, self.slots).transpose(1, 2)
        grouped = q.view(q.shape[0], heads, -1, q.shape[-1])
        out = F.scaled_dot_product_attention(
            grouped, seen[:, :heads], seen[:, heads:], attn_mask=self.mask
        )
        return out.reshape(q.shape[0], 1, -1)

    def finish(self) -> None:
        pass

    def run(self, prior: PriorModel) -> Tensor:
        """Return the logits (B, V), float32, after the tokens."""
        self.mask.copy_((self._keys <= self.starts[:, None])[:, None, None])
        x = prior.embed(self.tokens)[:, None]
        tables = prior._rotary.tables(self.positions, x.dtype)
        for index, layer in enumerate(prior.layers):
            assert isinstance(layer, PriorLayer)
            x = layer(x, prior._rotary, tables, self, index)
        return prior.logits(prior.norm(x)[:, 0])


class GraphedPrior:
    """Decode steps of one prior on one cache; a new cache needs new graphs."""

    def __init__(self, prior: PriorModel) -> None:
        self.prior = prior
        self._cache: KVCache | None = None
        self._steps: dict[tuple[int, int], tuple[_Step, Any, Tensor]] = {}

    def logits(
        self, tokens: Tensor, positions: Tensor, cache: KVCache, slots: Sequence[int]
    ) -> Tensor:
        """Return the logits (B, V), float32, after one more token of each row.

        tokens (B,) and positions (B, 3) continue `slots`, whose lengths are left to the caller.
        """
        starts = [cache.lengths[slot] for slot in slots]
        if max(starts) >= cache.max_length:
            raise ValueError(
                f"{max(starts)} + 1 positions do not fit a cache of {cache.max_length}"
            )
        if cache is not self._cache or len(self._steps) >= MAX_GRAPHS:
            self._cache, self._steps = cache, {}
        rows = 1 << (len(slots) - 1).bit_length()
        reach = min(-(-(max(starts) + 1) // REACH_STEP) * REACH_STEP, cache.max_length)
        key = rows, reach
        if key not in self._steps:
            step = _Step(cache, rows, reach)
            self._fill(step, tokens, positions, slots, starts)
            self._steps[key] = step, *self._capture(step)
        step, graph, out = self._steps[key]
        self._fill(step, tokens, positions, slots, starts)
        if graph is None:
            out = step.run(self.prior)
        else:
            graph.replay()
        return out[: len(slots)]

    def _fill(
        self,
        step: _Step,
        tokens: Tensor,
        positions: Tensor,
        slots: Sequence[int],
        starts: Sequence[int],
    ) -> None:
        rows = len(step.tokens)
        order = [*range(len(slots)), *[0] * (rows - len(slots))]
        step.tokens.copy_(tokens[order] if rows != len(slots) else tokens)
        step.positions[..., 0].copy_(positions[order] if rows != len(slots) else positions)
        where = torch.tensor([[slots[i], starts[i]] for i in order])
        if step.tokens.is_cuda:
            where = where.pin_memory()
        step.slots.copy_(where[:, 0], non_blocking=True)
        step.starts.copy_(where[:, 1], non_blocking=True)

    def _capture(self, step: _Step) -> tuple[Any, Tensor]:
        if not step.tokens.is_cuda:
            return None, torch.empty(0)
        # what a step writes is written again by the replay: warming up harms nothing
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step.run(self.prior)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step.run(self.prior)
        return graph, out
