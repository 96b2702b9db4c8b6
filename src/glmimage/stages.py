"""The components of the two stages, and who of them is in memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .fast import parse_fast
from .loading.adapters import load_low_ranks
from .loading.checkpoint import Checkpoint, resolve_model
from .loading.tensors import OnProgress, read_json
from .lora import Lora, lora_version
from .lossy import EXACT, Lossy
from .memory import (
    CPU_SMALL_VALUES,
    Dtypes,
    MemoryPlan,
    Needs,
    choose_device,
    choose_dtypes,
    free_bytes,
    plan_memory,
)
from .model.config import PriorConfig
from .model.dit import DiT
from .model.glyph import GlyphEncoder
from .model.lora import adapt, merge
from .model.prior import PriorModel
from .model.sampling import SamplingConfig
from .model.vae import VAE
from .model.vision import VisionTokenizer
from .packed_prior import PackedPrior, can_pack, pack
from .prompt import PromptEncoder

KEPT_ADAPTED = 4
"""Sets of adapters that stay loaded beside a stage; the one used longest ago goes first."""

AnyStage = TypeVar("AnyStage", bound="PriorStage | DecodeStage")


class _Adapted(Generic[AnyStage]):
    """A stage with each of the sets of adapters that were asked for last."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[Lora, str], ...], AnyStage] = {}

    def get(self, loras: Sequence[Lora], make: Callable[[Sequence[Lora]], AnyStage]) -> AnyStage:
        # by content too: adapters may have been trained further since they were read
        key = tuple((lora, lora_version(lora.path)) for lora in loras)
        stage = self._kept.pop(key, None) or make(loras)
        while len(self._kept) >= KEPT_ADAPTED:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = stage
        return stage


@dataclass(frozen=True)
class PriorStage:
    """What writes priors. suppress: bool (vision vocabulary,), true for ids that are no code.

    packed: the prior once more, for the token loop on a CPU; None where it would gain nothing.
    graphs: a decode step is one CUDA graph. compiled: of layers that were compiled for it.
    guesses: several tokens are read in a pass though the prior is not packed.
    """

    prompt: PromptEncoder
    vision: VisionTokenizer
    prior: PriorModel
    sampling: SamplingConfig
    suppress: Tensor
    device: torch.device
    packed: PackedPrior | None = None
    graphs: bool = False
    compiled: bool = False
    guesses: bool = False
    _adapted: _Adapted[PriorStage] = field(default_factory=_Adapted, repr=False)

    def adapted(self, loras: Sequence[Lora]) -> PriorStage:
        """Return the stage with adapters in its network; raise InvalidLora.

        It shares the weights, and is the very stage where no adapter has an effect.
        """
        active = [lora for lora in loras if lora.scale]
        return self._adapted.get(active, self._with) if active else self

    def _with(self, loras: Sequence[Lora]) -> PriorStage:
        weight = self.prior.embed.weight
        low_ranks = load_low_ranks(self.prior, loras, self.device, weight.dtype)
        if not low_ranks:
            return self
        prior = adapt(self.prior, low_ranks)
        # in float32: rounded to bfloat16, a weight would lose much of what is added to it
        packed = None if self.packed is None else PackedPrior(merge(prior))
        return replace(self, prior=prior, packed=packed, graphs=False)


@dataclass(frozen=True)
class DecodeStage:
    """What paints pictures.

    vae_pixels: a larger picture is decoded in tiles. side_by_side: the two passes of guidance run
    at once where there are two threads.
    """

    glyph: GlyphEncoder
    dit: DiT
    vae: VAE
    scheduler_config: Mapping[str, Any]
    vae_pixels: int
    device: torch.device
    lossy: Lossy = EXACT
    side_by_side: bool = False
    _adapted: _Adapted[DecodeStage] = field(default_factory=_Adapted, repr=False)

    def adapted(self, loras: Sequence[Lora]) -> DecodeStage:
        """Return the stage with adapters in its network; see `PriorStage.adapted`."""
        active = [lora for lora in loras if lora.scale]
        return self._adapted.get(active, self._with) if active else self

    def _with(self, loras: Sequence[Lora]) -> DecodeStage:
        low_ranks = load_low_ranks(self.dit, loras, self.device, self.dit.dtype)
        return replace(self, dit=adapt(self.dit, low_ranks)) if low_ranks else self


class Stages:
    """Give each stage its components: both at once, or only those of the stage at work.

    Staged, asking for one stage releases the other: keep no component beyond its use.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtypes: Dtypes,
        plan: MemoryPlan,
        on_progress: OnProgress | None = None,
        lossy: Lossy = EXACT,
        fast: frozenset[str] = frozenset(),
    ) -> None:
        self.lossy, self.fast = lossy, fast
        self.checkpoint, self.device, self.dtypes, self.plan = checkpoint, device, dtypes, plan
        self._on_progress = on_progress
        self._prior: PriorStage | None = None
        self._decode: DecodeStage | None = None
        if plan.resident:
            self.prior()
            self.decode()

    @classmethod
    def load(
        cls,
        model: str = "nano",
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        memory: str = "auto",
        on_progress: OnProgress | None = None,
        lossy: str = "",
        fast: str = "",
    ) -> Stages:
        """Open a checkpoint and load what the memory plan keeps loaded."""
        chosen, switches = choose_device(device), Lossy.parse(lossy)
        checkpoint = Checkpoint(resolve_model(model))
        prior_values = checkpoint.component_bytes(torch.int8)["prior"]
        dtypes = choose_dtypes(chosen, dtype, prior_values)
        counted = needs(checkpoint, dtypes, switches.weights)
        switches.check_memory(memory)
        plan = plan_memory(counted, free_bytes(chosen), memory)
        return cls(checkpoint, chosen, dtypes, plan, on_progress, switches, parse_fast(fast))

    def prior(self) -> PriorStage:
        """Return the prior's components, loaded when they are not there."""
        if self._prior is None:
            if not self.plan.resident:
                self._release()
            self._prior = self._load_prior()
        return self._prior

    def decode(self) -> DecodeStage:
        """Return the decoder's components, loaded when they are not there."""
        if self._decode is None:
            if not self.plan.resident:
                self._release()
            self._decode = self._load_decode()
        return self._decode

    def close(self) -> None:
        """Release everything; what is asked for afterwards is loaded again."""
        self._release()

    def _release(self) -> None:
        self._prior = self._decode = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _load_prior(self) -> PriorStage:
        checkpoint, where = self.checkpoint, (self.device, self.dtypes.prior, self._on_progress)
        config = checkpoint.prior_config
        sampling = SamplingConfig.from_dict(checkpoint.generation_config)
        num_codes = checkpoint.vq_config.num_embeddings
        prior = checkpoint.load_prior(*where, self.plan.prior_layers, self.lossy.weights)
        if "compile" in self.fast:
            prepare_compiler()
        whole = self.plan.prior_layers is None
        small = whole and sum(weight.numel() for weight in prior.parameters()) < CPU_SMALL_VALUES
        packed = pack(prior, self.dtypes.products) if small and can_pack(prior) else None
        on_cpu = self.device.type == "cpu"
        return PriorStage(
            prompt=checkpoint.load_prompt(),
            vision=checkpoint.load_vision(*where),
            prior=prior,
            sampling=sampling,
            suppress=sampling.suppress_mask(config.vision_vocab_size, num_codes).to(self.device),
            device=self.device,
            packed=packed,
            graphs="graphs" in self.fast and whole and self.device.type == "cuda",
            compiled="compile" in self.fast,
            guesses=packed is None and (on_cpu or "guesses" in self.fast),
        )

    def _load_decode(self) -> DecodeStage:
        checkpoint, where = self.checkpoint, (self.device, self.dtypes.decode, self._on_progress)
        vae = checkpoint.load_vae(*where)
        if self.device.type != "mps":
            # convolutions are 1.4 times as fast with the channels side by side (measured: CPU)
            vae.autoencoder.to(memory_format=torch.channels_last)
        dit = checkpoint.load_dit(*where, self.plan.decode_layers, self.lossy.weights)
        streams = self.plan.decode_layers is not None
        compiles = "compile" in self.fast and not streams
        if compiles:
            compile_layers(dit)
        return DecodeStage(
            glyph=checkpoint.load_glyph(*where),
            dit=dit,
            vae=vae,
            scheduler_config=checkpoint.scheduler_config,
            vae_pixels=self.plan.vae_pixels,
            device=self.device,
            lossy=self.lossy,
            # compiled layers have the number of threads written into them, and streamed ones hold
            # their weights for one pass at a time
            side_by_side=self.device.type == "cpu" and not compiles and not streams,
        )


def compile_layers(dit: DiT, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the decoder's layers: they share one function.

    It is compiled for the first numbers of tokens it meets, and then once more for any: with each
    other text in quotation marks there is another number. What reads references, and what writes
    their keys and values, is compiled apart.
    """
    prepare_compiler()
    for block in dit.blocks:
        block.compile(backend=backend)


def prepare_compiler() -> None:
    """Keep what is compiled over restarts, in TORCHINDUCTOR_CACHE_DIR or a folder of the user's."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "glmimage"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
    # eight shapes are the default, and more run uncompiled without a word
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)


def needs(checkpoint: Checkpoint, dtypes: Dtypes, weights: str = "") -> Needs:
    """Count what a checkpoint takes in these dtypes, from its configs and headers alone."""
    written, painted = (
        checkpoint.component_bytes(dtype, weights) for dtype in (dtypes.prior, dtypes.decode)
    )
    prior, dit = checkpoint.prior_config, checkpoint.dit_config
    # the VAE's last blocks hold about four maps of this many channels at the size of the picture
    channels = read_json(checkpoint.path, "vae/config.json")["block_out_channels"]
    widest = channels[min(1, len(channels) - 1)]
    return Needs(
        prior=written["prior"] + written["vision"],
        decode=painted["dit"] + painted["glyph"] + painted["vae"],
        kv_token=2 * prior.num_layers * prior.num_kv_heads * prior.head_dim * dtypes.prior.itemsize,
        reference_patch=2 * dit.num_layers * dit.inner_dim * dtypes.decode.itemsize,
        vae_pixel=4 * widest * dtypes.decode.itemsize,
        prior_layer=_prior_layer_values(prior) * dtypes.prior.itemsize,
        # packed weights are not streamed: a plan without layers says when they do not fit
        prior_layers=0 if weights else prior.num_layers,
        decode_layer=12 * dit.inner_dim**2 * dtypes.decode.itemsize,
        decode_layers=0 if weights else dit.num_layers,
    )


def _prior_layer_values(config: PriorConfig) -> int:
    """Count the weights of the products of one layer."""
    heads, kv_heads = config.num_heads, config.num_kv_heads
    attention = config.hidden_size * (2 * heads + 2 * kv_heads) * config.head_dim
    return attention + 3 * config.hidden_size * config.intermediate_size
