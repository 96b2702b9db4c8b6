"""Adapters as users name them: a folder in PEFT's format, with a scale; checked without torch.

PATH/prior/adapter_config.json      of the prior, where there is one
PATH/prior/adapter_model.safetensors
PATH/decoder/...                    of the decoder, likewise
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InvalidLora, InvalidSettings

PARTS = ("prior", "decoder")
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_LORAS = 4
MIN_LORA_SCALE, MAX_LORA_SCALE = 0.0, 4.0
_OFF = {  # what would change the numbers in a way that is not computed here
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "alpha_pattern": {},
    "layer_replication": None,
}


@dataclass(frozen=True)
class Lora:
    """Apply the adapters in the folder `path` to this strength; 0 is as if they were not there."""

    path: str
    scale: float = 1.0


def parse_lora(text: str) -> Lora:
    """Read `PATH` or `PATH:SCALE`; raise InvalidLora."""
    path, separator, scale = text.rpartition(":")
    if not separator or Path(text).is_dir():
        return Lora(text)
    try:
        return Lora(path, float(scale))
    except ValueError:
        return Lora(text)


def check_loras(loras: object) -> tuple[Lora, ...]:
    """Return the adapters of a request when there are not too many and their scales are usable."""
    if not isinstance(loras, Sequence) or not all(isinstance(lora, Lora) for lora in loras):
        raise InvalidLora("loras must be a sequence of Lora(path, scale).")
    if len(loras) > MAX_LORAS:
        raise InvalidLora(f"{len(loras)} adapters were given; at most {MAX_LORAS} are used.")
    for lora in loras:
        known = isinstance(lora.scale, int | float) and not isinstance(lora.scale, bool)
        if not known or not MIN_LORA_SCALE <= lora.scale <= MAX_LORA_SCALE:
            raise InvalidLora(
                f"The scale of adapter {lora.path!r} is {lora.scale}; it must be between "
                f"{MIN_LORA_SCALE:g} and {MAX_LORA_SCALE:g}."
            )
    return tuple(loras)


def lora_parts(path: str | Path) -> tuple[str, ...]:
    """Return which of the parts a folder of adapters has; raise InvalidLora when it has none."""
    root = Path(path)
    if not root.is_dir():
        raise InvalidLora(
            f"There is no folder of adapters {str(root)!r}.",
            hint="Give what `glmimage train lora` wrote, as PATH or PATH:SCALE.",
        )
    found = tuple(part for part in PARTS if (root / part / CONFIG_FILE).is_file())
    if not found:
        raise InvalidLora(
            f"{str(root)!r} holds neither prior/{CONFIG_FILE} nor decoder/{CONFIG_FILE}.",
            hint="Adapters are kept as PEFT writes them, in one folder for each part.",
        )
    for part in found:
        if not (root / part / WEIGHTS_FILE).is_file():
            raise InvalidLora(f"{part}/{WEIGHTS_FILE} is missing in {str(root)!r}.")
    return found


def read_lora_config(folder: Path) -> tuple[float, bool]:
    """Return (lora_alpha, whether the scale is alpha / sqrt(rank)); raise InvalidLora.

    Refuses every kind of adapter that is more than two small matrices beside a linear layer.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        kind, alpha = config["peft_type"], float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidLora(
            f"{CONFIG_FILE} in {str(folder)!r} cannot be used: "
            f"{type(error).__name__}: {' '.join(str(error).split())}."
        ) from None
    if kind != "LORA":
        raise InvalidLora(f"{str(folder)!r} is an adapter of kind {kind}; only LORA is supported.")
    for key, expected in _OFF.items():
        if (value := config.get(key)) not in (None, expected) and value:
            raise InvalidLora(
                f"{CONFIG_FILE} in {str(folder)!r}: {key} is {value!r}, which is not supported."
            )
    return alpha, bool(config.get("use_rslora"))


def lora_scale(alpha: float, rank: int, rank_stabilised: bool) -> float:
    """Return what PEFT multiplies the product of the two matrices with."""
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


def lora_version(path: str | Path) -> str:
    """Name the content of a folder of adapters by sizes and times: a new training, a new name."""
    digest = hashlib.sha256()
    for part in PARTS:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            try:
                stat = (Path(path) / part / name).stat()
            except OSError:
                continue
            digest.update(f"{part}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def check_lora_dir(folder: Path | None) -> None:
    """Raise InvalidSettings unless the folder of adapters is there, or none is named."""
    if folder is not None and not folder.is_dir():
        raise InvalidSettings(
            f"GLMIMAGE_LORA_DIR is '{folder}'; there is no such folder.",
            hint="Make it, name another with GLMIMAGE_LORA_DIR or --lora-dir, or name none if no "
            "request names adapters.",
        )


def lora_names(folder: Path | None) -> list[str]:
    """Return the names of the adapters in a folder of them, sorted."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if any((entry / part / CONFIG_FILE).is_file() for part in PARTS)
    )


def find_lora(folder: Path | None, name: str) -> Path:
    """Return the adapters called `name` in a folder of them; raise InvalidLora."""
    names = lora_names(folder)
    if folder is not None and name in names:
        lora_parts(folder / name)
        return folder / name
    known = f"known are: {', '.join(names)}" if names else "this server has none"
    raise InvalidLora(f"There is no adapter {name[:80]!r}; {known}.")
