"""Linear layers whose weights are kept in 8 or 4 bits, and are unpacked where they are used.

Weights only: what flows through the layers keeps its number format. int8 and fp8 have one scale a
row of the weight; int4 has a scale and a zero for each group of neighbours in a row, as the GPTQ
and AutoRound checkpoints have it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT4_GROUP = 128


class QuantizedLinear(nn.Module):
    """A linear layer with a packed weight (out, in).

    packed: int8 or float8_e4m3fn (out, in), or uint8 (out, in / 2), the even columns in the lower
    four bits. scale float32 (out, groups); zero uint8 (out, groups), int4 only. dtype: of the
    unpacked weight, and of the inputs.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self, packed: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.register_parameter("bias", None)

    @property
    def weight(self) -> Tensor:
        """Unpack the weight (out, in)."""
        return unpack(self.packed, self.scale, self.zero).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for x (..., in)."""
        return F.linear(x, self.weight, self.bias)


def unpack(packed: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Return the weight (out, in), float32; see QuantizedLinear."""
    if zero is None:
        return packed.float() * scale
    columns = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
    groups = columns.unflatten(1, (scale.shape[1], -1)).float()
    return ((groups - zero[..., None]) * scale[..., None]).flatten(1)


def pack_int4(columns: Tensor) -> Tensor:
    """Pack whole numbers 0 .. 15 (out, in) to uint8 (out, in / 2)."""
    pairs = columns.to(torch.uint8).unflatten(1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4


def quantize(weight: Tensor, form: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (packed, scale, zero) of a weight (out, in); form: int8, int4 or fp8."""
    exact = weight.float()
    if form == "int4":
        groups = exact.unflatten(1, (-1, _group_size(weight.shape[1])))
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-8)
        zero = (-low / scale).round()
        whole = (groups / scale[..., None]).round() + zero[..., None]
        return pack_int4(whole.clamp(0, 15).flatten(1)), scale, zero.to(torch.uint8)
    most = 127.0 if form == "int8" else torch.finfo(torch.float8_e4m3fn).max
    scale = exact.abs().amax(1, keepdim=True).clamp(min=1e-8) / most
    scaled = (exact / scale).clamp(-most, most)
    if form == "int8":
        return scaled.round().to(torch.int8), scale, None
    return scaled.to(torch.float8_e4m3fn), scale, None


def packed_bytes(rows: int, columns: int, form: str) -> int:
    """Return what a weight takes when it is packed, scales included."""
    if form == "int4":
        return rows * (columns // 2 + 5 * columns // _group_size(columns))
    return rows * (columns + 4)


def _group_size(columns: int) -> int:
    """Return the largest size up to INT4_GROUP that divides the columns."""
    return next(size for size in range(INT4_GROUP, 0, -1) if columns % size == 0)


def quantizable(model: nn.Module) -> frozenset[str]:
    """Name the weights that are packed: the linear layers of the repeated layers."""
    return frozenset(
        f"{name}.weight"
        for name, layer in model.named_modules()
        if name.partition(".")[0] in ("layers", "blocks")
        and isinstance(layer, nn.Linear)
        and layer.in_features % 2 == 0
    )


def replace_weight(
    model: nn.Module, name: str, packed: tuple[Tensor, Tensor, Tensor | None], dtype: torch.dtype
) -> None:
    """Put a QuantizedLinear where the linear layer with the weight `name` was; no bias yet."""
    owner, _, leaf = name.removesuffix(".weight").rpartition(".")
    setattr(model.get_submodule(owner), leaf, QuantizedLinear(*packed, dtype))
