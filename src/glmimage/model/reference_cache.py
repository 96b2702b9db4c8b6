"""What the decoder keeps of reference pictures: their keys and values in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReferenceCache:
    """Keys and values of reference pictures: one (B, heads, R, head_dim) tensor a layer.

    `mask` (B, R) is false where a row has fewer reference tokens than its neighbours.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))

    @classmethod
    def stack(cls, rows: Sequence[ReferenceCache | None]) -> ReferenceCache | None:
        """Batch the caches of single pictures; None stands for a row that reads no reference.

        Rows that share one cache share its memory; other rows are padded to the longest.
        """
        present = [row for row in rows if row is not None]
        if not present:
            return None
        if all(row is rows[0] for row in rows):
            keys = tuple(key.expand(len(rows), -1, -1, -1) for key in present[0].keys)
            values = tuple(value.expand(len(rows), -1, -1, -1) for value in present[0].values)
            return cls(keys, values)
        lengths = [row.num_tokens if row else 0 for row in rows]
        longest = max(lengths)
        layers = range(len(present[0].keys))
        keys = tuple(_pad_rows([row.keys[n] if row else None for row in rows]) for n in layers)
        values = tuple(_pad_rows([row.values[n] if row else None for row in rows]) for n in layers)
        if min(lengths) == longest:
            return cls(keys, values)
        device = keys[0].device
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        return cls(keys, values, mask)


def _pad_rows(rows: Sequence[Tensor | None]) -> Tensor:
    """Batch (1, heads, R, head_dim) tensors, filled with zeros up to the longest."""
    present = [row for row in rows if row is not None]
    length = max(row.shape[2] for row in present)
    batch = present[0].new_zeros(len(rows), present[0].shape[1], length, present[0].shape[3])
    for target, row in zip(batch, rows, strict=True):
        if row is not None:
            target[:, : row.shape[2]] = row[0]
    return batch
