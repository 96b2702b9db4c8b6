"""Layers whose weights are brought to the device when they run, and make room again afterwards.

The weights stay in the checkpoint's files, mapped into memory, or in page-locked memory of the
host where there is enough of it. Two layers are on the device at a time: one at work and, on CUDA,
the next one on its way. The numbers are those of a network that is loaded as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .tensors import StoredTensor, copy_parts

# of the memory of the host, what page-locked copies may take
PINNED_SHARE = 0.6
Read = Callable[[int, str, Tensor], None]
"""Copy parameter `name` of layer `index` into a tensor."""


class StreamedLayers:
    """Give each of some layers its weights while it runs.

    The layers are alike, their parameters on the meta device. pinned: keep a page-locked copy of
    all weights on the host. Call them in order for the copies to overlap the work.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        names: Sequence[str],
        read: Read,
        device: torch.device,
        dtype: torch.dtype,
        *,
        pinned: bool = False,
    ) -> None:
        self._layers, self._names, self._device = list(layers), list(names), device
        self._read = self._pin(read, dtype) if pinned else read
        shapes = {name: layers[0].get_parameter(name).shape for name in names}
        self._places = [
            {
                name: nn.Parameter(torch.empty(shape, device=device, dtype=dtype), False)
                for name, shape in shapes.items()
            }
            for _ in range(min(2, len(self._layers)))
        ]
        self._empty = [{n: layer.get_parameter(n) for n in names} for layer in self._layers]
        self._holds: list[int | None] = [None] * len(self._places)
        self._copies: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrived: list[Any] = [None] * len(self._places)
        self._free: list[Any] = [None] * len(self._places)
        for index, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(self._before(index))
            layer.register_forward_hook(self._after(index), always_call=True)

    def _pin(self, read: Read, dtype: torch.dtype) -> Read:
        host: list[dict[str, Tensor]] = []
        for index, layer in enumerate(self._layers):
            kept = {}
            for name in self._names:
                shape = layer.get_parameter(name).shape
                kept[name] = torch.empty(shape, dtype=dtype, pin_memory=True)
                read(index, name, kept[name])
            host.append(kept)

        def copy(index: int, name: str, target: Tensor) -> None:
            target.copy_(host[index][name], non_blocking=True)

        return copy

    def _before(self, index: int) -> Callable[..., None]:
        def bring(layer: nn.Module, _: object) -> None:
            place = index % len(self._places)
            if self._holds[place] != index:
                self._fetch(index)
            if self._copies is not None:
                torch.cuda.current_stream(self._device).wait_event(self._arrived[place])
            self._give(layer, self._places[place])

        return bring

    def _after(self, index: int) -> Callable[..., None]:
        def take(layer: nn.Module, *_: object) -> None:
            place = index % len(self._places)
            self._give(layer, self._empty[index])
            if self._copies is not None:
                self._free[place] = torch.cuda.current_stream(self._device).record_event()
                following = (index + 1) % len(self._layers)
                # after the last layer comes the first one of the next pass
                for ahead in (following, (index + 2) % len(self._layers)):
                    if ahead % len(self._places) == place and self._holds[place] != ahead:
                        self._fetch(ahead)
                        break

        return take

    def _fetch(self, index: int) -> None:
        place = index % len(self._places)
        self._holds[place] = None  # a copy that fails must not look complete
        if self._copies is None:
            self._copy(index, place)
        else:
            with torch.cuda.stream(self._copies):
                if self._free[place] is not None:
                    self._copies.wait_event(self._free[place])
                self._copy(index, place)
                self._arrived[place] = self._copies.record_event()
        self._holds[place] = index

    @torch.no_grad()
    def _copy(self, index: int, place: int) -> None:
        for name, target in self._places[place].items():
            self._read(index, name, target.data)

    def _give(self, layer: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            owner, _, leaf = name.rpartition(".")
            module = layer.get_submodule(owner)
            # with adapters around it, the layer itself is one deeper
            getattr(module, "base", module)._parameters[leaf] = parameter


def streamed_names(model: nn.Module, kept_layers: int | None) -> dict[str, tuple[int, str]]:
    """Return parameter name -> (layer, name within it) of the layers behind the kept ones.

    The modulation of the decoder's layers is computed for all steps at once, before they run.
    """
    if kept_layers is None:
        return {}
    found = {}
    for name, _ in model.named_parameters():
        group, _, rest = name.partition(".")
        index, _, inner = rest.partition(".")
        if group not in ("layers", "blocks") or inner.startswith("modulation."):
            continue
        if int(index) >= kept_layers:
            found[name] = int(index), inner
    return found


def stream_layers(
    component: str,
    model: nn.Module,
    streamed: Mapping[str, tuple[int, str]],
    parts: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    dtype: torch.dtype,
) -> StreamedLayers:
    """Let the layers that `streamed` names read their weights from the files as they run."""
    readers: dict[Path, Any] = {}
    indices = sorted({index for index, _ in streamed.values()})
    inner = [name for index, name in streamed.values() if index == indices[0]]
    group = next(iter(streamed)).partition(".")[0]

    def read(position: int, name: str, target: Tensor) -> None:
        full = f"{group}.{indices[position]}.{name}"
        copy_parts(component, parts[full], stored, target, readers)

    layers = [model.get_submodule(f"{group}.{index}") for index in indices]
    size = sum(p.numel() for layer in layers for p in layer.parameters()) * dtype.itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pinned = device.type == "cuda" and size < PINNED_SHARE * memory
    return StreamedLayers(layers, inner, read, device, dtype, pinned=pinned)
