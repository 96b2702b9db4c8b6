"""The pieces the autoregressive model is made of: rotary positions, gated MLP, row padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PriorConfig

CPU_ROW_STEP = 4
"""Rows of a CPU float32 matrix product are bitwise independent of their number at multiples of 4.

Measured with MKL; at other counts the remainder goes through another kernel, whose last bit
differs. So padding keeps a sampled token, and with it the picture, the same in any batch.
"""


class GatedMLP(nn.Module):
    """Apply down(up * silu(gate)), gate and up in one product."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

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
        swapped = torch.cat((x[..., half : 2 * half], x[..., :half], x[..., 2 * half :]), dim=-1)
        x.mul_(cos).addcmul_(swapped, sin)


def pad_rows(x: Tensor) -> Tensor:
    """Repeat the first row of a CPU float32 batch until CPU_ROW_STEP divides the number of rows."""
    missing = -x.shape[0] % CPU_ROW_STEP
    if missing == 0 or x.device.type != "cpu" or x.dtype == torch.bfloat16:
        return x
    return torch.cat((x, x[:1].expand(missing, *x.shape[1:])))
