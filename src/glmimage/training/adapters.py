"""Fresh adapters around a frozen network, ready to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InvalidLora
from ..loading.adapters import Target, choose_targets
from ..model.dit import DiT
from ..model.lora import LowRank, adapt
from ..model.prior import PriorModel

CHECKPOINTED_VALUES = 250_000_000
"""A network of so many values keeps no activations; its layers are computed again."""


class Trained:
    """A network with adapters beside the chosen layers; only those learn, in float32.

    pairs: the reference's name of a layer -> (down, up). up starts at zero: at first the network
    computes what it computed before.
    """

    def __init__(
        self, network: PriorModel | DiT, targets: Sequence[str], rank: int, scale: float, seed: int
    ) -> None:
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        chosen = choose_targets(network, targets)
        device = next(network.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        low_ranks: dict[str, list[LowRank]] = {}
        for name, target in chosen.items():
            _check_rank(name, target, rank)
            # as PEFT begins: kaiming_uniform with a = sqrt(5) is uniform in +- 1 / sqrt(columns)
            down = torch.rand(rank, target.columns, generator=generator)
            down = (2 * down - 1) * target.columns**-0.5
            part = LowRank(
                down.to(device).requires_grad_(),
                torch.zeros(target.rows, rank, device=device).requires_grad_(),
                scale,
                target.start,
            )
            self.pairs[name] = (part.down.weight, part.up.weight)  # type: ignore[assignment]
            low_ranks.setdefault(target.layer, []).append(part)
        self.network = adapt(network, low_ranks)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for pair in self.pairs.values() for parameter in pair]

    def state(self) -> dict[str, list[Tensor]]:
        """Return copies of the values, by name."""
        return {name: [p.detach().cpu().clone() for p in pair] for name, pair in self.pairs.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, list[Tensor]]) -> None:
        """Take over values; KeyError or RuntimeError when they are of other layers."""
        for name, pair in self.pairs.items():
            for parameter, value in zip(pair, state[name], strict=True):
                parameter.copy_(value)

    def forget_activations(self) -> None:
        """Have every layer computed again in the backward pass."""
        layers = getattr(self.network, "layers", None) or self.network.blocks
        assert isinstance(layers, nn.ModuleList)
        for index, layer in enumerate(layers):
            layers[index] = _Forgetful(layer)


class _Forgetful(nn.Module):
    """A layer whose activations are not kept."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @property
    def modulation(self) -> Any:
        return self.layer.modulation

    def forward(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.layer(*arguments)
        return checkpoint(self.layer, *arguments, use_reentrant=False)


def _check_rank(name: str, target: Target, rank: int) -> None:
    if rank > min(target.rows, target.columns):
        raise InvalidLora(
            f"A rank of {rank} is more than layer {name} has ({target.columns} to {target.rows}).",
            hint="Take a smaller --rank.",
        )
