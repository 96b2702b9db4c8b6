"""Operations that a CPU does faster in bfloat16 than PyTorch's own kernels of the same name.

Linear layers go to oneDNN with their weights in the layout that it multiplies in, which PyTorch
would make anew for every product, and with their GELU. Measured on two cores with AMX, 1040 rows:
384 -> 1536 with its GELU 4.14 ms -> 1.69 ms, 384 -> 1152 1.66 ms -> 1.02 ms.

Without AMX, scaled_dot_product_attention multiplies bfloat16 in float32 units, while oneDNN's
matrix products use the processor's bfloat16 instructions. Measured on two Zen 4 cores, 3 heads of
128: 4120 tokens 154 ms -> 90 ms, 1050 tokens 11.4 ms -> 5.9 ms; a layer 384 -> 1536 with its GELU,
4096 rows: 21.9 ms -> 13.2 ms.
"""

from __future__ import annotations

import functools
import weakref
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Queries at a time: their scores against 4096 keys stay near the cores.
QUERY_ROWS = 256
# Below this the few large products no longer pay.
MIN_KEYS = 256
# So many rows with their GELU take one thread longer: 1040 2.7 us each, 1280 3.8, 520 only 1.7.
SLOW_ROWS = range(900, 1500)
# Larger weights are not kept a second time: their products have enough rows to pay for the layout.
MAX_PACKED_BYTES = 8 << 20

# layer -> the weight, its version and parts, and the parts as they are multiplied
_packed: weakref.WeakKeyDictionary[
    nn.Linear, tuple[weakref.ref[Tensor], tuple[int, ...], tuple[Tensor, ...]]
] = weakref.WeakKeyDictionary()


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(query keys^T / sqrt(d)) values; (B, heads, S, d), mask (B, 1, 1, K) bool."""
    if mask is not None or keys.shape[2] < MIN_KEYS or not _products_are_faster(query):
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    scaled = query * query.shape[-1] ** -0.5
    # laid out once, and not for every product
    rows, keys, values = (x.contiguous().flatten(0, 1) for x in (scaled, keys, values))
    turned = keys.transpose(-1, -2)
    parts = [
        torch.bmm(torch.bmm(part, turned).softmax(-1), values)
        for part in rows.split(QUERY_ROWS, dim=1)
    ]
    return torch.cat(parts, dim=1).view_as(query)


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """Return a linear layer's output."""
    if _takes_packed(layer, x):
        return torch.ops.mkldnn._linear_pointwise(x, _pack(layer)[0], layer.bias, "none", [], "")
    return layer(x)


def linear_parts(x: Tensor, layer: nn.Module, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return a linear layer's output, cut into channels of these sizes; on a CPU each by itself."""
    if not _takes_packed(layer, x):
        return layer(x).split(sizes, dim=-1)
    biases = (None,) * len(sizes) if layer.bias is None else layer.bias.split(sizes)
    return tuple(
        torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        for weight, bias in zip(_pack(layer, sizes), biases, strict=True)
    )


def mlp(x: Tensor, layer_in: nn.Module, layer_out: nn.Module) -> Tensor:
    """Return layer_out(GELU(layer_in(x))) of (B, S, D)."""
    is_slow = _takes_packed(layer_in, x) and x.shape[0] * x.shape[1] in SLOW_ROWS
    if not is_slow or torch.get_num_threads() > 1:
        return linear(linear_gelu(x, layer_in), layer_out)
    halves = x.flatten(0, 1).chunk(2)
    return torch.cat([linear(linear_gelu(h, layer_in), layer_out) for h in halves]).view(x.shape)


def linear_gelu(x: Tensor, layer: nn.Module) -> Tensor:
    """Return GELU (its tanh form) of a linear layer."""
    if not hasattr(layer, "weight") or not _takes_onednn(x):  # adapters have no weight
        return F.gelu(layer(x), approximate="tanh")
    # the same kernel for a weight that is unpacked for every product (loading/quantized.py)
    weight = _pack(layer)[0] if type(layer) is nn.Linear else layer.weight
    return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "gelu", [], "tanh")


def _takes_packed(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear and x.dtype == torch.bfloat16 and _takes_onednn(x)


def _pack(layer: nn.Linear, sizes: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
    """Return the weight, or parts of so many rows, as oneDNN multiplies it; small ones are kept."""
    weight = layer.weight
    if weight.dtype != torch.bfloat16 or weight.nbytes > MAX_PACKED_BYTES:
        return weight.split(sizes) if sizes else (weight,)
    version, kept = (*_version(weight), *sizes), _packed.get(layer)
    # the very tensor, not only its address: memory that is freed is given to the next one
    if kept is None or kept[0]() is not weight or kept[1] != version:
        parts = weight.detach().split(sizes or (len(weight),))
        packed = tuple(torch.ops.mkldnn._reorder_linear_weight(part) for part in parts)
        kept = _packed[layer] = weakref.ref(weight), version, packed
    return kept[2]


def _version(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _takes_onednn(x: Tensor) -> bool:
    plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return not plain and x.device.type == "cpu" and _has_onednn(x.dtype)


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products are the faster ones."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _products_are_faster(x: Tensor) -> bool:
    """Whether products use bfloat16 instructions and attention does not: AVX512-BF16, no AMX."""
    is_bfloat16 = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return is_bfloat16 and _has_onednn(x.dtype) and not torch.cpu._is_amx_tile_supported()
