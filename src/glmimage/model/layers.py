"""The pieces the autoregressive model is made of: rotary positions, gated MLP, row padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PriorConfig

_CPU_ROWS = 4, 8
"""Rows are padded to a multiple of the first and multiplied at most the second at a time.

Measured with MKL in float32: within 4 .. 11 rows one kernel serves all, so that a row's result is
the same to the last bit however many rows stand beside it, and with it a sampled token, and with
it the picture. Below 4 and above 11 other kernels round differently.
"""


class RowLinear(nn.Linear):
    """A linear layer that is fast, and independent of the batch, for the few rows of a decode step.

    On a CPU, weight @ rows.T reads the weights once; F.linear would repack them for every product
    (2 to 3 times the time, at 4 rows of a 256 x 1280 layer).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, S, out) for x (B, S, in)."""
        if x.shape[1] > 1 or x.device.type != "cpu" or x.dtype != torch.float32:
            return F.linear(x, self.weight, self.bias)
        parts = [torch.mm(self.weight, rows.t()).t() for rows in x[:, 0].split(_CPU_ROWS[1])]
        out = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
        return (out if self.bias is None else out.add_(self.bias))[:, None]


class GatedMLP(nn.Module):
    """Apply down(up * silu(gate)), gate and up in one product."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = RowLinear(hidden_size, 2 * intermediate_size, bias=False)
        self.down = RowLinear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up))


class Rotary:
    """Turn 2D M-RoPE positions into the cosines and sines of one forward pass.

    Frequency f of a head is driven by one of the axes (temporal, height, width): the sections of
    `mrope_section` take the axes in turn, over and over, however many sections there are.
    """

    def __init__(self, config: PriorConfig) -> None:
        dim = config.rotary_dim
        # on the CPU even while modules are built on the meta device: no checkpoint fills these
        steps = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu")
        self._frequencies = 1.0 / (config.rope_theta ** (steps / dim))
        section = torch.tensor(config.mrope_section, device="cpu")
        self._axes = (torch.arange(len(section), device="cpu") % 3).repeat_interleave(section)
        self._unrotated = config.head_dim - dim

    def tables(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (cos, signed sin), each (B, S, 1, head_dim), for positions (B, 3, S)."""
        if self._axes.device != position_ids.device:
            self._frequencies = self._frequencies.to(position_ids.device)
            self._axes = self._axes.to(position_ids.device)
        positions = position_ids.index_select(1, self._axes).transpose(1, 2)  # (B, S, dim / 2)
        angles = positions.float() * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        # the channels that are not rotated keep themselves: cos 1, sin 0
        rest = (0, self._unrotated)
        cos = F.pad(torch.cat((cos, cos), dim=-1), rest, value=1.0)
        sin = F.pad(torch.cat((-sin, sin), dim=-1), rest)
        return cos.to(dtype).unsqueeze(2), sin.to(dtype).unsqueeze(2)

    def rotate_(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate heads in place; x (B, S, heads, head_dim), split-half layout."""
        half = self._axes.numel()
        parts = x.split((half, half, self._unrotated) if self._unrotated else half, dim=-1)
        swapped = torch.cat((parts[1], parts[0], *parts[2:]), dim=-1)
        x.mul_(cos).addcmul_(swapped, sin)


def padding_of(x: Tensor) -> int:
    """Count the rows that a CPU float32 batch x lacks to be a multiple of 4."""
    return -x.shape[0] % _CPU_ROWS[0] if x.device.type == "cpu" and x.dtype == torch.float32 else 0


def pad_rows(x: Tensor, count: int) -> Tensor:
    """Append `count` copies of the first row."""
    return torch.cat((x, x[:1].expand(count, *x.shape[1:]))) if count else x


def on_device(
    values: Sequence[int] | Sequence[float] | Sequence[Sequence[int]],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return numbers of the host as a tensor on the device, without waiting for the device."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    # from pageable memory a copy waits for all that the device still has to do
    return tensor.pin_memory().to(device, non_blocking=True)
