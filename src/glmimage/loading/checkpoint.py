"""A checkpoint folder in the diffusers layout: checked when opened, loaded component by component.

Opening reads configs and safetensors headers only, so that whatever is wrong is said in one
sentence before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import CheckpointInvalid, ModelNotFound
from ..model.config import DitConfig, PriorConfig, VisionConfig, VQConfig
from ..model.dit import DIT_TENSORS, DiT
from ..model.glyph import GlyphEncoder
from ..model.prior import PRIOR_TENSORS, PriorModel
from ..model.schedule import check_scheduler
from ..model.vae import VAE
from ..model.vision import VISION_IGNORED, VISION_TENSORS, VisionTokenizer
from ..prompt import PromptEncoder
from .hub import LAYOUT, PRIOR_FOLDER, resolve_model
from .quantized import packed_bytes, quantizable
from .streamed import stream_layers, streamed_names
from .tensors import (
    Json,
    OnProgress,
    StoredTensor,
    TensorTable,
    check_nothing_left,
    check_shapes,
    fill,
    parts_of,
    read_json,
    stored_tensors,
)

__all__ = ["Checkpoint", "Components", "load_components", "resolve_model"]

_TRANSFORMERS_STEM, _DIFFUSERS_STEM = "model", "diffusion_pytorch_model"

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class Components:
    """Everything the pipeline runs; `info` has path, dtype and component_bytes."""

    prior: PriorModel
    vision: VisionTokenizer
    prompt: PromptEncoder
    dit: DiT
    glyph: GlyphEncoder
    vae: VAE
    scheduler_config: Json
    generation_config: Json
    info: Json


@dataclass(frozen=True)
class _Network:
    folder: str
    stem: str  # of its safetensors files
    build: Callable[[], nn.Module]
    table: TensorTable | None = None  # None where the module has the checkpoint's own names


class Checkpoint:
    """Open a checkpoint folder; raises CheckpointInvalid naming the file and the tensor.

    Each load_* builds a network on the meta device and gives it the stored tensors, cast to
    `dtype`, one by one. on_progress(component, bytes_done, bytes_total) follows stored bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._check_index()
        prior_json = self._read_config(PRIOR_FOLDER, "architectures")
        self.prior_config = PriorConfig.from_dict(prior_json)
        self.vision_config = VisionConfig.from_dict(prior_json)
        self.vq_config = VQConfig.from_dict(prior_json)
        self.dit_config = DitConfig.from_dict(self._read_config("transformer", "_class_name"))
        self.generation_config = read_json(self.path, f"{PRIOR_FOLDER}/generation_config.json")
        self.scheduler_config = read_json(self.path, "scheduler/scheduler_config.json")
        check_scheduler(self.scheduler_config)
        self._glyph_json = read_json(self.path, "text_encoder/config.json")
        self._vae_json = self._read_config("vae", "_class_name")
        self._check_fit()
        self._networks = {
            "prior": _Network(
                PRIOR_FOLDER,
                _TRANSFORMERS_STEM,
                lambda: PriorModel(self.prior_config),
                PRIOR_TENSORS,
            ),
            "vision": _Network(
                PRIOR_FOLDER,
                _TRANSFORMERS_STEM,
                lambda: VisionTokenizer(self.vision_config, self.vq_config),
                VISION_TENSORS,
            ),
            "dit": _Network(
                "transformer", _DIFFUSERS_STEM, lambda: DiT(self.dit_config), DIT_TENSORS
            ),
            "glyph": _Network("text_encoder", _TRANSFORMERS_STEM, self._build_glyph),
            "vae": _Network("vae", _DIFFUSERS_STEM, self._build_vae),
        }
        self._parts: dict[str, dict[str, tuple[str, ...]]] = {}
        self._packs: dict[str, frozenset[str]] = {}
        self._stored: dict[str, dict[str, StoredTensor]] = {}
        self._check_tensors()

    def component_bytes(
        self, dtype: torch.dtype | None = None, weights: str = ""
    ) -> dict[str, int]:
        """Return the bytes of each network's weights in `dtype`, or as stored; loads nothing.

        weights: int8, int4 or fp8, as those of the layers are kept.
        """

        def size(name: str, tensor: StoredTensor, packs: Container[str]) -> int:
            if dtype is None or tensor.packed is not None:
                return tensor.num_bytes
            if weights and name in packs:
                return packed_bytes(tensor.shape[0], tensor.shape[1], weights)
            return tensor.numel * dtype.itemsize

        sizes = {}
        for component, parts in self._parts.items():
            stored = self._stored[self._networks[component].folder]
            packs = self._packs[component] if component in ("prior", "dit") else frozenset()
            sizes[component] = sum(
                size(name, stored[part], packs) for name, names in parts.items() for part in names
            )
        return sizes

    @property
    def is_packed(self) -> bool:
        """Whether the checkpoint itself holds weights packed to 4 bits."""
        return any(
            t.packed is not None for stored in self._stored.values() for t in stored.values()
        )

    def load_prior(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        on_progress: OnProgress | None = None,
        kept_layers: int | None = None,
        weights: str = "",
    ) -> PriorModel:
        """Load it; the layers behind the first `kept_layers` are streamed.

        weights: int8, int4 or fp8 keeps the layers' weights so.
        """
        return self._load("prior", PriorModel, device, dtype, on_progress, kept_layers, weights)

    def load_vision(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        on_progress: OnProgress | None = None,
    ) -> VisionTokenizer:
        return self._load("vision", VisionTokenizer, device, dtype, on_progress)

    def load_dit(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        on_progress: OnProgress | None = None,
        kept_layers: int | None = None,
        weights: str = "",
    ) -> DiT:
        """Load it; the layers behind the first `kept_layers` are streamed.

        weights: int8, int4 or fp8 keeps the layers' weights so.
        """
        return self._load("dit", DiT, device, dtype, on_progress, kept_layers, weights)

    def load_glyph(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        on_progress: OnProgress | None = None,
    ) -> GlyphEncoder:
        from transformers import ByT5Tokenizer

        encoder = self._load("glyph", nn.Module, device, dtype, on_progress)
        return GlyphEncoder(encoder, self._from_folder(ByT5Tokenizer, "tokenizer")).eval()

    def load_vae(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        on_progress: OnProgress | None = None,
    ) -> VAE:
        # its activations leave the range of float16, and the picture comes out black
        dtype = torch.float32 if dtype == torch.float16 else dtype
        return VAE(self._load("vae", nn.Module, device, dtype, on_progress)).eval()

    def load_prompt(self) -> PromptEncoder:
        from transformers import GlmImageProcessor

        return PromptEncoder(self._from_folder(GlmImageProcessor, "processor"))

    def _load(
        self,
        name: str,
        kind: type[AnyModule],
        device: str | torch.device,
        dtype: torch.dtype,
        on_progress: OnProgress | None,
        kept_layers: int | None = None,
        weights: str = "",
    ) -> AnyModule:
        network = self._networks[name]
        with torch.device("meta"):
            model = network.build()
        assert isinstance(model, kind)
        where, stored = torch.device(device), self._stored[network.folder]
        streamed = streamed_names(model, kept_layers)
        fill(name, model, self._parts[name], stored, where, dtype, on_progress, streamed, weights)
        if streamed:
            stream_layers(name, model, streamed, self._parts[name], stored, where, dtype)
        return model.eval()

    def _build_glyph(self) -> nn.Module:
        from transformers import T5Config, T5EncoderModel

        return T5EncoderModel(T5Config.from_dict({**self._glyph_json, "tie_word_embeddings": True}))

    def _build_vae(self) -> nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_config(self._vae_json)

    def _from_folder(self, kind: Any, folder: str) -> Any:
        try:
            return kind.from_pretrained(self.path / folder, local_files_only=True)
        except Exception as error:  # whatever a damaged file makes the library raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointInvalid(
                f"The {folder} folder in {self.path} cannot be read: {reason}",
                hint="Download or copy that folder again.",
            ) from error

    def _read_config(self, folder: str, key: str) -> Json:
        """Read config.json and check that it is of the class the pipeline needs."""
        config = read_json(self.path, f"{folder}/config.json")
        found = config.get(key)
        if LAYOUT[folder] not in (found if isinstance(found, list) else [found]):
            raise _wrong_class(f"{folder}/config.json: {key}", found, LAYOUT[folder])
        return config

    def _check_index(self) -> None:
        if not self.path.is_dir():
            raise ModelNotFound(
                f"There is no folder {self.path}.",
                hint="Give the folder of a checkpoint, the one with model_index.json in it.",
            )
        index = read_json(self.path, "model_index.json")
        if index.get("_class_name") != "GlmImagePipeline":
            raise _wrong_class(
                "model_index.json: _class_name", index.get("_class_name"), "GlmImagePipeline"
            )
        for folder, kind in LAYOUT.items():
            entry = index.get(folder)
            if not isinstance(entry, list) or kind not in entry:
                raise _wrong_class(f"model_index.json: {folder}", entry, kind)
            if not (self.path / folder).is_dir():
                raise CheckpointInvalid(
                    f"The folder {folder} is missing in {self.path}.",
                    hint="Download or copy the checkpoint again.",
                )

    def _check_fit(self) -> None:
        """Check that the components belong together, which the reference finds out by crashing."""
        dit, vae, glyph = self.dit_config, self._vae_json, self._glyph_json
        channels = vae.get("latent_channels")
        if glyph.get("model_type") != "t5":
            raise _wrong_class(
                "text_encoder/config.json: model_type", glyph.get("model_type"), "t5"
            )
        for key in ("latents_mean", "latents_std"):
            value = vae.get(key)
            if not isinstance(value, list) or len(value) != channels:
                raise CheckpointInvalid(f"vae/config.json: {key} must hold {channels} numbers.")
        blocks = vae.get("block_out_channels")
        patch_pixels = 2 ** (len(blocks) - 1) * dit.patch_size if isinstance(blocks, list) else 0
        codes = self.vq_config.num_embeddings
        for file, what, found, expected in (
            ("vae", "latent_channels", channels, dit.in_channels),
            ("vae", "pixels of a patch of the transformer", patch_pixels, 16),
            ("transformer", "out_channels", dit.out_channels, dit.in_channels),
            ("text_encoder", "d_model", glyph.get("d_model"), dit.text_embed_dim),
            ("vision_language_encoder", "patch_size", self.vision_config.patch_size, 16),
        ):
            if found != expected:
                raise CheckpointInvalid(
                    f"{file}/config.json: {what} is {found} where the other components need "
                    f"{expected}.",
                    hint="The folder mixes components of different checkpoints.",
                )
        if dit.prior_vq_quantizer_codebook_size < codes:
            raise CheckpointInvalid(
                "transformer/config.json: prior_vq_quantizer_codebook_size "
                f"{dit.prior_vq_quantizer_codebook_size} is less than the {codes} prior tokens.",
                hint="The folder mixes components of different checkpoints.",
            )

    def _check_tensors(self) -> None:
        """Compare every network with the headers of its files, both ways."""
        used: dict[str, set[str]] = {}
        for name, network in self._networks.items():
            folder = network.folder
            if folder not in self._stored:
                self._stored[folder] = stored_tensors(self.path, folder, network.stem)
            try:
                with torch.device("meta"):
                    model = network.build()
            except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
                raise CheckpointInvalid(
                    f"{folder}/config.json describes no network that can be built: {error}"
                ) from error
            parts = parts_of(model, network.table, self._stored[folder])
            check_shapes(folder, model, parts, self._stored[folder])
            self._parts[name], self._packs[name] = parts, quantizable(model)
            used.setdefault(folder, set()).update(
                part for names in parts.values() for part in names
            )
        ignored = {PRIOR_FOLDER: VISION_IGNORED, "text_encoder": {"encoder.embed_tokens.weight"}}
        for folder, stored in self._stored.items():
            check_nothing_left(folder, stored, used[folder], ignored.get(folder, ()))


def load_components(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_progress: OnProgress | None = None,
) -> Components:
    """Load the whole checkpoint in `path` onto one device."""
    checkpoint = Checkpoint(path)
    where = (device, dtype, on_progress)
    return Components(
        prior=checkpoint.load_prior(*where),
        vision=checkpoint.load_vision(*where),
        prompt=checkpoint.load_prompt(),
        dit=checkpoint.load_dit(*where),
        glyph=checkpoint.load_glyph(*where),
        vae=checkpoint.load_vae(*where),
        scheduler_config=checkpoint.scheduler_config,
        generation_config=checkpoint.generation_config,
        info={
            "path": str(checkpoint.path),
            "dtype": str(dtype).removeprefix("torch."),
            "component_bytes": checkpoint.component_bytes(dtype),
        },
    )


def _wrong_class(where: str, found: Any, expected: str) -> CheckpointInvalid:
    return CheckpointInvalid(
        f"{where} is {found!r} where a GLM-Image checkpoint has {expected!r}.",
        hint="Give a GLM-Image checkpoint in the diffusers layout.",
    )
