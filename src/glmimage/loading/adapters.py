"""Adapters in PEFT's format: their names beside ours, read from a folder and written to one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..atomic_file import replace_file
from ..errors import InvalidLora
from ..lora import CONFIG_FILE, WEIGHTS_FILE, Lora, lora_parts, lora_scale, read_lora_config
from ..model.dit import DIT_TENSORS, DiT
from ..model.lora import LowRank
from ..model.prior import PRIOR_TENSORS, PriorModel
from .quantized import QuantizedLinear

PREFIX = "base_model.model."
_LAYER = re.compile(r"\.(\d+)\.")
DEFAULT_TARGETS = {
    "prior": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "decoder": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
REFERENCE_CLASSES = {
    "prior": ("transformers", "GlmImageForConditionalGeneration"),
    "decoder": (
        "diffusers.models.transformers.transformer_glm_image",
        "GlmImageTransformer2DModel",
    ),
}


@dataclass(frozen=True)
class Target:
    """A linear layer of the reference: rows start .. start + rows of our layer."""

    layer: str
    start: int
    rows: int
    columns: int


def targets_of(network: PriorModel | DiT) -> dict[str, Target]:
    """Return every linear layer of a network under its name in transformers or diffusers."""
    table = PRIOR_TENSORS if isinstance(network, PriorModel) else DIT_TENSORS
    targets = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | QuantizedLinear):
            continue
        number = _LAYER.search(name)
        layer = number[1] if number else ""
        theirs = table[f"{name.replace(f'.{layer}.', '.{i}.', 1) if layer else name}.weight"]
        rows, columns = _shape_of(module)
        start = 0
        for part, count in zip(theirs, _split(network, rows, len(theirs)), strict=True):
            reference = part.format(i=layer).removesuffix(".weight")
            targets[reference] = Target(name, start, count, columns)
            start += count
    return targets


def _shape_of(module: nn.Linear | QuantizedLinear) -> tuple[int, int]:
    """Return (out, in), without unpacking anything."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    rows, columns = module.packed.shape
    return rows, columns if module.zero is None else 2 * columns


def _split(network: PriorModel | DiT, rows: int, count: int) -> list[int]:
    """Return how many rows each of the `count` layers has that lie side by side in ours."""
    if count == 3 and isinstance(network, PriorModel):
        config = network.config
        heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        return [number * config.head_dim for number in heads]
    return [rows // count] * count


def choose_targets(network: PriorModel | DiT, wanted: Sequence[str]) -> dict[str, Target]:
    """Return the layers whose names are, or end in, one of `wanted`; raise InvalidLora."""
    targets = targets_of(network)
    chosen: dict[str, Target] = {}
    for suffix in wanted:
        found = {
            name: target
            for name, target in targets.items()
            if name == suffix or name.endswith(f".{suffix}")
        }
        if not found:
            short = sorted({name.split(".")[-1] for name in targets if not name[-1].isdigit()})
            raise InvalidLora(
                f"No layer of the {_part_of(network)} is called {suffix!r}.",
                hint=f"Names end, for example, in: {', '.join(short)}.",
            )
        chosen |= found
    return chosen


def load_low_ranks(
    network: PriorModel | DiT, loras: Sequence[Lora], device: torch.device, dtype: torch.dtype
) -> dict[str, list[LowRank]]:
    """Read what some folders hold for a network: our layer's name -> its adapters."""
    part, targets = _part_of(network), targets_of(network)
    loaded: dict[str, list[LowRank]] = {}
    for lora in loras:
        if part not in lora_parts(lora.path):
            continue
        folder = Path(lora.path) / part
        alpha, stabilised = read_lora_config(folder)
        for name, (down, up) in _read_pairs(folder, targets).items():
            target = targets[name]
            scale = lora.scale * lora_scale(alpha, down.shape[0], stabilised)
            down, up = down.to(device, dtype), up.to(device, dtype)
            low_rank = LowRank(down, up, scale, target.start)
            loaded.setdefault(target.layer, []).append(low_rank)
    return loaded


def save_adapter(
    folder: Path,
    part: str,
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    alpha: float,
    target_modules: Sequence[str],
    base_model: str,
) -> None:
    """Write adapters, reference name -> (down, up), as PEFT does; raise OSError."""
    library, kind = REFERENCE_CLASSES[part]
    rank = next(iter(tensors.values()))[0].shape[0]
    config = {
        "auto_mapping": {"base_model_class": kind, "parent_library": library},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(target_modules),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    stored = {}
    for name, pair in tensors.items():
        for letter, tensor in zip("AB", pair, strict=True):
            key = f"{PREFIX}{name}.lora_{letter}.weight"
            stored[key] = tensor.detach().to("cpu", torch.float32).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS_FILE, save(stored, {"format": "pt"}), 0o644)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / CONFIG_FILE, text.encode(), 0o644)


def _part_of(network: PriorModel | DiT) -> str:
    return "prior" if isinstance(network, PriorModel) else "decoder"


def _read_pairs(folder: Path, targets: Mapping[str, Target]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return reference name -> (down, up); every tensor must belong to a layer, and fit it."""
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InvalidLora(
            f"{WEIGHTS_FILE} in {str(folder)!r} cannot be read: {reason}.",
            hint="The file is incomplete: copy it again.",
        ) from None
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        name, _, rest = key.removeprefix(PREFIX).rpartition(".lora_")
        if name not in targets or rest not in ("A.weight", "B.weight"):
            raise InvalidLora(
                f"{str(folder)!r}: tensor {key} belongs to no linear layer of this model.",
                hint="The adapters were made for another model.",
            )
        pairs.setdefault(name, {})[rest[0]] = tensor
    for name, pair in pairs.items():
        target, rank = targets[name], pair["A"].shape[0] if "A" in pair else 0
        shapes = {letter: tuple(tensor.shape) for letter, tensor in pair.items()}
        if shapes != {"A": (rank, target.columns), "B": (target.rows, rank)}:
            raise InvalidLora(
                f"{str(folder)!r}: {name} has adapters of {shapes} beside a layer of "
                f"{target.columns} to {target.rows}.",
                hint="The adapters were made for another model.",
            )
    return {name: (pair["A"], pair["B"]) for name, pair in pairs.items()}
