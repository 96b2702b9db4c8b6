"""A decode step of the prior as a CUDA graph: the host launches one graph instead of each kernel.

What changes between steps (tokens, positions, slots, lengths) is copied into fixed tensors before
the graph is replayed. Rows and reach are rounded up, so that few graphs serve all steps; what is
beyond a position is masked. Elsewhere than on CUDA the same step runs kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .model.layers import on_device, pad_rows
from .model.prior import KVCache, PriorLayer, PriorModel

REACH_STEP = 512
MAX_GRAPHS = 64


class _Step:
    """Fixed tensors of one step; they stay where a graph knows them.

    Rows beyond the real ones repeat row 0: they write the same values to the same place.
    count: positions of a row, one after the other. in_place: the rows are the cache's first slots,
    in order, and are read where they lie.
    """

    def __init__(
        self, cache: KVCache, groups: int, rows: int, count: int, reach: int, in_place: bool
    ) -> None:
        device = cache.buffer.device
        self.cache, self.reach, self.in_place = cache, reach, in_place
        self.tokens = torch.zeros(rows, count, dtype=torch.long, device=device)
        self.positions = torch.zeros(rows, 3, count, dtype=torch.long, device=device)
        self.slots = torch.zeros(rows, dtype=torch.long, device=device)
        self.starts = torch.zeros(rows, dtype=torch.long, device=device)
        self._keys = torch.arange(reach, device=device)
        self._offsets = torch.arange(count, device=device)
        # added to the scores: of a bool mask each layer would make these numbers anew
        queries = 1 if count == 1 else groups * count  # one position looks as far in every head
        self.mask = torch.zeros(rows, 1, queries, reach, dtype=cache.buffer.dtype, device=device)

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Store kv (B, S, 2 * kv_heads, d), let q (B, S, heads, d) look; (B, S, heads * d)."""
        store, heads = self.cache.buffer[layer], self.cache.num_kv_heads
        rows, count = q.shape[:2]
        store.index_put_((self.slots[:, None], self.starts[:, None] + self._offsets), kv)
        seen = store[:rows, : self.reach]
        if not self.in_place:
            seen = store[:, : self.reach].index_select(0, self.slots)
        keys, values = seen.transpose(1, 2).split(heads, dim=1)
        # the heads that share keys become more queries of one head: nothing is repeated
        grouped = q.unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            grouped.flatten(2, 3), keys, values, attn_mask=self.mask
        )
        return out.unflatten(2, (-1, count)).permute(0, 3, 1, 2, 4).flatten(2)

    def run(self, prior: PriorModel, project: Any, complete: Any) -> Tensor:
        """Return the logits (B * S, V), float32, after the tokens.

        project, complete: what a PriorLayer does before and behind its attention, or that compiled.
        """
        heads = prior.config.num_heads
        self.mask.zero_()
        hidden = self._keys > (self.starts[:, None] + self._offsets)[..., None]  # (B, S, reach)
        groups = self.mask.shape[2] // hidden.shape[1]
        self.mask.masked_fill_(hidden.repeat(1, groups, 1)[:, None], -torch.inf)
        x = prior.embed(self.tokens)
        tables = prior._rotary.tables(self.positions, x.dtype)
        for index, layer in enumerate(prior.layers):
            assert isinstance(layer, PriorLayer)
            qkv = project(layer, x, prior._rotary, *tables)
            x = complete(layer, x, self.attend(index, qkv[:, :, :heads], qkv[:, :, heads:]))
        return prior.logits(prior.norm(x).flatten(0, 1))


class GraphedPrior:
    """Decode steps of one prior on one cache; a new cache needs new graphs.

    backend: of torch.compile, for the layers; None leaves them as they are. The layers share two
    functions, compiled once for each number of rows; attention writes the cache and stays outside.
    """

    def __init__(self, prior: PriorModel, backend: str | None = None) -> None:
        self.prior = prior
        self._parts: tuple[Any, Any] = PriorLayer.project, PriorLayer.complete
        if backend is not None:
            project, complete = (
                torch.compile(part, dynamic=False, backend=backend) for part in self._parts
            )
            self._parts = project, complete
        self._cache: KVCache | None = None
        self._steps: dict[tuple[int, int, int, bool], tuple[_Step, Any, Tensor]] = {}

    def logits(
        self, tokens: Tensor, positions: Tensor, cache: KVCache, slots: Sequence[int]
    ) -> Tensor:
        """Return the logits (B * S, V), float32, after each of S more tokens of each row.

        tokens (B, S) and positions (B, 3, S) continue `slots`, whose lengths are left to the
        caller.
        """
        starts, count = [cache.lengths[slot] for slot in slots], tokens.shape[1]
        config = self.prior.config
        if max(starts) + count > cache.max_length:
            raise ValueError(
                f"{max(starts)} + {count} positions do not fit a cache of {cache.max_length}"
            )
        if cache is not self._cache or len(self._steps) >= MAX_GRAPHS:
            self._cache, self._steps = cache, {}
        rows = 1 << (len(slots) - 1).bit_length()
        reach = min(-(-(max(starts) + count) // REACH_STEP) * REACH_STEP, cache.max_length)
        key = rows, count, reach, list(slots) == list(range(rows))
        if key not in self._steps:
            step = _Step(cache, config.num_heads // config.num_kv_heads, *key)
            self._fill(step, tokens, positions, slots, starts)
            self._steps[key] = step, *self._capture(step)
        step, graph, out = self._steps[key]
        self._fill(step, tokens, positions, slots, starts)
        if graph is None:
            out = step.run(self.prior, *self._parts)
        else:
            graph.replay()
        return out[: len(slots) * count]

    def _fill(
        self,
        step: _Step,
        tokens: Tensor,
        positions: Tensor,
        slots: Sequence[int],
        starts: Sequence[int],
    ) -> None:
        rows = len(step.tokens)
        missing = rows - len(slots)
        step.tokens.copy_(pad_rows(tokens, missing))
        step.positions.copy_(pad_rows(positions, missing))
        padded = [[*values, *[values[0]] * missing] for values in (slots, starts)]
        where = on_device(padded, step.tokens.device)
        step.slots.copy_(where[0])
        step.starts.copy_(where[1])

    def _capture(self, step: _Step) -> tuple[Any, Tensor]:
        if not step.tokens.is_cuda:
            return None, torch.empty(0)
        # what a step writes is written again by the replay: warming up harms nothing
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step.run(self.prior, *self._parts)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step.run(self.prior, *self._parts)
        return graph, out
