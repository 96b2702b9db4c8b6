"""Low-rank adapters beside linear layers, in copies of a network that share all its weights.

The network itself is never changed, so that pictures without adapters stay what they are, to the
last bit, and any number of adapted copies stand beside it for the memory of their small matrices.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import RowLinear

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class LowRank(nn.Module):
    """Add scale * up(down(x)) to the rows start .. start + rows of a layer's result.

    A layer of ours may hold several of the checkpoint's side by side; each has its own.
    down (rank, in), up (rows, rank).
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float, start: int = 0) -> None:
        super().__init__()
        self.scale, self.start, self.stop = scale, start, start + up.shape[0]
        # a row's result does not depend on the rows beside it, as in the layer itself
        self.down, self.up = _row_linear(down), _row_linear(up)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x.to(self.down.weight.dtype))) * self.scale


class LoraLinear(nn.Module):
    """A linear layer with adapters. It has no weight of its own: who reads weights must merge."""

    def __init__(self, base: nn.Module, parts: Sequence[LowRank]) -> None:
        super().__init__()
        self.base: nn.Module = base
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        for part in self.parts:
            assert isinstance(part, LowRank)
            rest = part.start, out.shape[-1] - part.stop
            out = out + F.pad(part(x).to(out.dtype), rest)
        return out

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return one layer that computes the same, to rounding."""
        own = self.base.weight
        assert isinstance(own, Tensor)
        weight = own.float().clone()
        for part in self.parts:
            assert isinstance(part, LowRank)
            product = part.up.weight.float() @ part.down.weight.float()
            weight[part.start : part.stop] += part.scale * product
        layer = _row_linear(weight.to(own.dtype))
        layer.register_parameter("bias", self.base._parameters["bias"])
        return layer


def adapt(network: AnyModule, parts: Mapping[str, Sequence[LowRank]]) -> AnyModule:
    """Return the network with adapters beside the layers named; all weights are shared."""
    adapted = _share(network)
    for name, own in parts.items():
        # the copy's own layer: streamed weights are given to it while its block runs
        _put(adapted, name, LoraLinear(adapted.get_submodule(name), own))
    return adapted


def merge(adapted: AnyModule) -> AnyModule:
    """Return an adapted network with its adapters multiplied into copies of their layers."""
    merged = _share(adapted)
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLinear):
            _put(merged, name, module.merged())
    return merged


def _row_linear(weight: Tensor) -> RowLinear:
    with torch.device("meta"):
        layer = RowLinear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
    return layer


def _share(module: AnyModule) -> AnyModule:
    """Copy the tree of modules, not their parameters.

    A compiled module's copy is not compiled: what was compiled runs the module it was made of.
    """
    shared = copy.copy(module)
    shared._compiled_call_impl = None
    shared._parameters, shared._buffers = dict(module._parameters), dict(module._buffers)
    shared._modules = {
        name: None if child is None else _share(child) for name, child in module._modules.items()
    }
    return shared


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, module)
