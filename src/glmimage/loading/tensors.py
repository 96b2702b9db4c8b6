"""The safetensors files of one component: headers first, then each tensor once, cast on the way.

Everything that can be wrong with a file or a name is found from the headers, before a network
takes any memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointInvalid, OutOfMemory
from .autoround import Packed, check_quantization, packed_names, packed_shape, read_packed
from .quantized import quantizable, quantize, replace_weight, unpack

Json = dict[str, Any]
OnProgress = Callable[[str, int, int], None]
# our parameter name -> the checkpoint's names, concatenated on dim 0; {i} is the layer in both
TensorTable = Mapping[str, tuple[str, ...]]

STORED_TYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
PACKED_TYPES = {"I32": 4}
_LAYER = re.compile(r"\.(\d+)\.")
_DOWNLOAD_HINT = "The file is incomplete: download or copy it again."


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, known from the header of its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    packed: Packed | None = None
    packed_bytes: int = 0
    part_files: tuple[tuple[str, Path], ...] = ()

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        if self.packed is not None:
            return self.packed_bytes
        return self.numel * (STORED_TYPES | PACKED_TYPES)[self.dtype]


def read_json(root: Path, name: str) -> Json:
    """Read one JSON object of the checkpoint; raise CheckpointInvalid naming the file."""
    try:
        value = json.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointInvalid(
            f"{name} is missing in {root}.",
            hint="Give a folder with a complete GLM-Image checkpoint in the diffusers layout.",
        ) from None
    except OSError as error:
        raise CheckpointInvalid(f"{name} in {root} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointInvalid(
            f"{name} in {root} is not valid JSON: {error}.", hint=_DOWNLOAD_HINT
        ) from None
    if not isinstance(value, dict):
        raise CheckpointInvalid(f"{name} in {root} must hold a JSON object.")
    return value


def stored_tensors(root: Path, component: str, stem: str) -> dict[str, StoredTensor]:
    """Read the headers of `component`/`stem`.safetensors, or of the shards its index names.

    Weights in packed parts appear as one tensor.
    """
    stored = _read_headers(root, component, stem)
    if check_quantization(component, read_json(root, f"{component}/config.json")):
        stored = _fold(component, stored)
    for name, tensor in stored.items():
        if tensor.dtype in PACKED_TYPES:
            raise CheckpointInvalid(
                f"{component}: tensor {name} is stored as {tensor.dtype}, which is not supported.",
                hint="Use the bf16, fp16 or fp32 checkpoint.",
            )
    return stored


def _fold(component: str, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Put one tensor in the place of the parts of each packed weight."""
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    whole = dict(stored)
    for name, packed in packed_names(stored).items():
        shape = packed_shape(component, name, packed, shapes)
        parts = {part: whole.pop(part) for part in packed.names}
        num_bytes = sum(part.num_bytes for part in parts.values())
        files = tuple((part, tensor.file) for part, tensor in parts.items())
        file = stored[packed.qweight].file
        whole[name] = StoredTensor(file, "F16", shape, packed, num_bytes, files)
    return whole


def _read_headers(root: Path, component: str, stem: str) -> dict[str, StoredTensor]:
    folder = root / component
    if (folder / f"{stem}.safetensors").is_file():
        return _read_header(root, f"{component}/{stem}.safetensors")
    index_name = f"{component}/{stem}.safetensors.index.json"
    if not (root / index_name).is_file():
        raise CheckpointInvalid(
            f"{component}/{stem}.safetensors is missing in {root}, and so is its shards' index.",
            hint="Download or copy the checkpoint again; only safetensors files are read.",
        )
    weight_map = read_json(root, index_name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointInvalid(f"{index_name} in {root} has no weight_map.", hint=_DOWNLOAD_HINT)
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        if Path(shard).name != shard:
            raise CheckpointInvalid(f"{index_name} names a shard outside its folder: {shard!r}.")
        header = _read_header(root, f"{component}/{shard}")
        twice = sorted(found.keys() & header.keys())
        if twice:
            raise CheckpointInvalid(f"{component}: tensor {twice[0]} is stored in two shards.")
        found |= header
    for name, shard in weight_map.items():
        if name not in found or found[name].file.name != shard:
            raise CheckpointInvalid(
                f"{component}/{shard} does not hold the tensor {name} that {index_name} promises.",
                hint="Shard and index are of different versions: download both again.",
            )
    return found


def _read_header(root: Path, name: str) -> dict[str, StoredTensor]:
    """Read the header of one file, and check that the file is as long as it says."""
    path = root / name
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            raw = stream.read(length) if length <= size else b""
    except FileNotFoundError:
        raise CheckpointInvalid(
            f"{name} is missing in {root}.", hint="Download or copy the checkpoint again."
        ) from None
    except OSError as error:
        raise CheckpointInvalid(f"{name} in {root} cannot be read: {error.strerror}.") from None
    if start == b"version ":
        raise CheckpointInvalid(
            f"{name} is a Git LFS pointer, not the file itself.", hint="Run `git lfs pull` there."
        )
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        found = {
            key: StoredTensor(path, str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for key, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointInvalid(
            f"{name} is truncated or not a safetensors file ({size} bytes).", hint=_DOWNLOAD_HINT
        ) from None
    if size != 8 + length + end:
        raise CheckpointInvalid(
            f"{name} is truncated: {size} bytes instead of {8 + length + end}.",
            hint=_DOWNLOAD_HINT,
        )
    for key, stored in found.items():
        if stored.dtype not in STORED_TYPES | PACKED_TYPES:
            raise CheckpointInvalid(
                f"{name}: tensor {key} is stored as {stored.dtype}, which is not supported.",
                hint="Use the bf16, fp16 or fp32 checkpoint.",
            )
    return found


def parts_of(
    model: nn.Module, table: TensorTable | None, stored: Container[str]
) -> dict[str, tuple[str, ...]]:
    """Name the stored tensors of every parameter; without a table the names are the same.

    A tied parameter has several names there, and is stored under any of them.
    """
    if table is None:
        aliases: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(parameter), []).append(name)
        return {
            names[0]: (next((name for name in names if name in stored), names[0]),)
            for names in aliases.values()
        }
    parts = {}
    for name, _ in model.named_parameters():
        layer = _LAYER.search(name)
        theirs = table[_LAYER.sub(".{i}.", name, count=1)]
        parts[name] = tuple(part.format(i=layer[1]) for part in theirs) if layer else theirs
    return parts


def check_shapes(
    component: str,
    model: nn.Module,
    parts: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Refuse a missing tensor, and one whose shape is not what the config asks for."""
    missing = [part for names in parts.values() for part in names if part not in stored]
    if missing:
        raise CheckpointInvalid(
            f"{component}: {_listed('tensor', missing)} missing in the safetensors files.",
            hint="The files do not belong to this config.json, or are incomplete.",
        )
    for name, parameter in model.named_parameters():
        shapes = [stored[part].shape for part in parts[name]]
        expected = tuple(parameter.shape)
        rows = sum(shape[0] for shape in shapes if shape)
        if all(shape and shape[1:] == expected[1:] for shape in shapes) and rows == expected[0]:
            continue
        found = ", ".join(f"{part} {list(stored[part].shape)}" for part in parts[name])
        together = " together" if len(shapes) > 1 else ""
        file = stored[parts[name][0]].file.name
        raise CheckpointInvalid(
            f"{component}/{file}: wrong shape: {found}; config.json asks for "
            f"{list(expected)}{together}.",
            hint="The files do not belong to this config.json.",
        )


def check_nothing_left(
    component: str, stored: Iterable[str], used: Iterable[str], ignored: Iterable[str]
) -> None:
    """Refuse tensors nobody asked for: the network would not be the one that was trained."""
    unexpected = sorted({*stored} - {*used} - {*ignored})
    if unexpected:
        raise CheckpointInvalid(
            f"{component}: {_listed('tensor', unexpected)} unexpected in the safetensors files.",
            hint="The files do not belong to this config.json.",
        )


def fill(
    component: str,
    model: nn.Module,
    parts: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    dtype: torch.dtype,
    on_progress: OnProgress | None,
    streamed: Container[str] = (),
    weights: str = "",
) -> None:
    """Give a model built on the meta device its tensors; only one is in memory twice at a time.

    The parameters named in `streamed` are left on the meta device. weights: int8, int4 or fp8
    packs those of the repeated layers; what the checkpoint has packed stays so.
    """
    pack = quantizable(model)
    wanted = {name: names for name, names in parts.items() if name not in streamed}
    total = sum(stored[part].num_bytes for names in wanted.values() for part in names)
    done = 0
    readers: dict[Path, Any] = {}
    aliases: dict[int, list[str]] = {}
    shapes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
        shapes[name] = parameter.shape
    for names in aliases.values():
        first = names[0]
        if first in streamed:
            continue
        if first in pack and all(stored[part].packed for part in parts[first]):
            form = _packed_parts(component, parts[first], stored, readers, device)
            replace_weight(model, first, form, dtype)
        else:
            target = _empty(component, shapes[first], device, dtype)
            copy_parts(component, parts[first], stored, target, readers)
            if weights and first in pack:
                replace_weight(model, first, quantize(target, weights), dtype)
            else:
                _set(model, names, target)
        done += sum(stored[part].num_bytes for part in parts[first])
        if on_progress is not None:
            on_progress(component, done, total)


def _set(model: nn.Module, names: Sequence[str], target: Tensor) -> None:
    """Make a tensor the parameter of all these names."""
    parameter = nn.Parameter(target, requires_grad=False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)


def copy_parts(
    component: str,
    parts: Sequence[str],
    stored: Mapping[str, StoredTensor],
    target: Tensor,
    readers: dict[Path, Any],
) -> None:
    """Copy stored tensors one below the other into `target`, cast on the way."""
    row = 0
    for part in parts:
        if stored[part].packed is not None:
            source = unpack(*_packed_parts(component, [part], stored, readers))
        else:
            source = _read(component, stored[part].file, part, readers)
        target[row : row + len(source)].copy_(source)
        row += len(source)


def _packed_parts(
    component: str,
    parts: Sequence[str],
    stored: Mapping[str, StoredTensor],
    readers: dict[Path, Any],
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> tuple[Tensor, Tensor, Tensor]:
    """Read packed weights, one below the other, as (packed, scale, zero)."""
    found = []
    for part in parts:
        tensor = stored[part]
        assert tensor.packed is not None
        files = dict(tensor.part_files)

        def read(name: str, files: Mapping[str, Path] = files) -> Tensor:
            return _read(component, files[name], name, readers)

        try:
            found.append(read_packed(tensor.packed, read))
        except ValueError as error:
            raise CheckpointInvalid(
                f"{component}: the weight {part} cannot be unpacked: {error}.",
                hint="Use a checkpoint packed without activation order.",
            ) from None
    packed, scale, zero = (torch.cat(rows).to(device) for rows in zip(*found, strict=True))
    return packed, scale, zero


def _read(component: str, file: Path, name: str, readers: dict[Path, Any]) -> Tensor:
    """Map one tensor into memory."""
    try:
        if file not in readers:
            readers[file] = safe_open(file, framework="pt", device="cpu")
        return readers[file].get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointInvalid(
            f"{component}: tensor {name} cannot be read from {file.name}: {error}.",
            hint=_DOWNLOAD_HINT,
        ) from error


def _empty(component: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, device=device, dtype=dtype)
    except RuntimeError as error:  # each kind of device has its own words for it
        if "memory" not in str(error):
            raise
        raise OutOfMemory(
            f"Loading {component} needs more memory than {device} has free.",
            hint="Load stage by stage, in bf16, or on a larger device.",
        ) from error


def _listed(noun: str, names: list[str]) -> str:
    """Say 'tensor a is', or 'tensors a, b, c and 7 more are'."""
    if len(names) == 1:
        return f"{noun} {names[0]} is"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{noun}s {', '.join(names[:3])}{more} are"
