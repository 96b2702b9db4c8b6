"""The public 4-bit checkpoints: weights packed by AutoRound as GPTQ packs them.

In place of X.weight (out, in) stand X.qweight int32 (in / 8, out), eight rows to a number, the
lowest bits first; X.scales (groups, out); X.qzeros int32 (groups, out / 8), one less than the zero
is; and often X.g_idx, the group of every column, which is that of its place. The configuration
stands in the component's config.json as quantization_config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointInvalid
from .quantized import pack_int4

METHODS = ("auto-round", "intel/auto-round", "gptq")
PACKINGS = ("auto_round:auto_gptq", "auto_round:gptq", "gptq", None)
_SHIFTS = torch.arange(0, 32, 4, dtype=torch.int32)


@dataclass(frozen=True)
class Packed:
    """Where the parts of a packed weight (out, in) lie."""

    qweight: str
    scales: str
    qzeros: str
    g_idx: str | None

    @property
    def names(self) -> tuple[str, ...]:
        parts = (self.qweight, self.scales, self.qzeros, self.g_idx)
        return tuple(part for part in parts if part is not None)


def check_quantization(component: str, config: Mapping[str, Any]) -> bool:
    """Whether the component is packed; raise CheckpointInvalid when it is packed otherwise."""
    found = config.get("quantization_config")
    if not found:
        return False
    where = f"{component}/config.json: quantization_config"
    if not isinstance(found, dict):
        raise CheckpointInvalid(f"{where} must be an object.")
    packing = found.get("packing_format", found.get("backend"))
    if isinstance(packing, str) and packing.startswith("auto_round:gptq"):
        packing = "auto_round:gptq"
    for key, value, known in (
        ("quant_method", found.get("quant_method"), METHODS),
        ("packing_format", packing, PACKINGS),
        ("bits", found.get("bits"), (4,)),
        ("data_type", found.get("data_type", "int"), ("int",)),
        ("desc_act", found.get("desc_act", False), (False, None)),
    ):
        if value not in known:
            raise CheckpointInvalid(
                f"{where}: {key} is {value!r}, which cannot be read.",
                hint="Use the checkpoint in bf16, or one packed by AutoRound to 4 bits "
                "(packing_format auto_round:auto_gptq).",
            )
    return True


def packed_names(stored: Mapping[str, Any]) -> dict[str, Packed]:
    """Return the weights that are stored in parts, by the name of the whole."""
    return {
        f"{base}.weight": Packed(
            name,
            f"{base}.scales",
            f"{base}.qzeros",
            f"{base}.g_idx" if f"{base}.g_idx" in stored else None,
        )
        for name in stored
        if name.endswith(".qweight")
        for base in [name.removesuffix(".qweight")]
    }


def packed_shape(
    component: str, name: str, packed: Packed, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, int]:
    """Return (out, in) of a packed weight; raise CheckpointInvalid when its parts do not fit."""
    found = [shapes.get(part, ()) for part in (packed.qweight, packed.scales, packed.qzeros)]
    if all(len(shape) == 2 for shape in found):
        (eighths, out), (groups, wide), (rows, packed_out) = found
        columns = 8 * eighths
        if wide == out and rows == groups and 8 * packed_out == out and columns % groups == 0:
            return out, columns
    raise CheckpointInvalid(
        f"{component}: the parts of {name} do not fit together: qweight {list(found[0])}, "
        f"scales {list(found[1])}, qzeros {list(found[2])}.",
        hint="The file is not complete, or not packed by AutoRound or GPTQ to 4 bits.",
    )


def read_packed(packed: Packed, read: Callable[[str], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (packed, scale, zero) as QuantizedLinear has them; ValueError for mixed groups."""
    scales = read(packed.scales).float().t().contiguous()
    columns = _unpack(read(packed.qweight)).transpose(1, 2).flatten(0, 1).t()
    zeros = _unpack(read(packed.qzeros)).flatten(1).t() + 1
    if packed.g_idx is not None:
        size = columns.shape[1] // scales.shape[1]
        if not torch.equal(read(packed.g_idx).long(), torch.arange(columns.shape[1]) // size):
            raise ValueError("its columns are not grouped in their order")
    return pack_int4(columns), scales, zeros.to(torch.uint8).contiguous()


def _unpack(numbers: Tensor) -> Tensor:
    """Return the eight 4-bit parts (..., 8) of int32 numbers, lowest bits first."""
    return numbers[..., None] >> _SHIFTS & 15
