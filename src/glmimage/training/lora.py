"""Train adapters part by part; only what a part needs is in memory."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence

import torch

from ..errors import InvalidSettings, OutOfMemory, OutputError
from ..loading.adapters import DEFAULT_TARGETS
from ..loading.checkpoint import Checkpoint
from ..memory import choose_device, choose_dtypes, memory_errors
from ..model.dit import DiT
from ..model.prior import PriorModel
from .adapters import CHECKPOINTED_VALUES, Trained
from .cache import kept, version_of
from .dataset import Example, read_folder, split
from .encoding import Painted, Written, empty_glyphs, encode_pictures, read_tokens
from .loop import STATE_FILE, PartTraining, check_same_options
from .objectives import DecoderObjective, PriorObjective
from .options import LoraOptions
from .progress import TrainingEvent

STATE_COPIES = 4
"""On disk: the adapters, and the state with two moments for each of their values."""


def train_lora(
    options: LoraOptions,
    model: str,
    base_model: str = "",
    device: str | None = None,
    dtype: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainingEvent]:
    """Train the adapters asked for and say what happens; `out` holds them from the first save on.

    model: the folder of a checkpoint. base_model: its name, as the adapters are to give it.
    dtype: of the frozen weights; None takes bfloat16 where a GPU computes in it, else float32.
    Raises GlmImageError; a wrong folder or option is refused before anything is loaded.
    """
    examples = read_folder(options.folder, options.resolution)
    learnt, kept_out = split(examples, options.validation, options.seed)
    _check_out(options)
    return _train(
        options,
        Checkpoint(model),
        base_model or model,
        device,
        dtype,
        learnt,
        kept_out,
        should_stop,
    )


def _train(
    options: LoraOptions,
    checkpoint: Checkpoint,
    base_model: str,
    device: str | None,
    dtype: str | None,
    learnt: Sequence[Example],
    kept_out: Sequence[Example],
    should_stop: Callable[[], bool],
) -> Iterator[TrainingEvent]:
    where = choose_device(device)
    if dtype is None and where.type != "cuda":
        dtype = "float32"  # the fast half of a CPU or of MPS gains little beside float32 adapters
    chosen = choose_dtypes(where, dtype).decode
    examples, count = [*learnt, *kept_out], len(learnt)
    try:
        with memory_errors():
            version = version_of(examples, checkpoint.path, where.type, chosen)
            written = yield from kept(
                options.out / "tokens.cache",
                Written,
                version,
                read_tokens(checkpoint, examples, where, chosen),
            )
            if "prior" in options.parts:
                training = _prior_training(
                    options, checkpoint, base_model, where, chosen, written, count
                )
                yield from training.run(should_stop)
                del training
                _release(where)
            if "decoder" in options.parts and not should_stop():
                painted = yield from encode_pictures(checkpoint, examples, written, where, chosen)
                decoder = _decoder_training(
                    options, checkpoint, base_model, where, chosen, painted, count
                )
                yield from decoder.run(should_stop)
    except OutOfMemory:
        raise OutOfMemory(
            "The device ran out of memory.",
            hint="Take a smaller --batch (with --accumulate instead), a smaller --resolution, "
            "or --checkpointing; --resume goes on from what was saved last.",
        ) from None


def _prior_training(
    options: LoraOptions,
    checkpoint: Checkpoint,
    base_model: str,
    device: torch.device,
    dtype: torch.dtype,
    items: Sequence[Written],
    count: int,
) -> PartTraining[Written]:
    targets = options.prior_targets or DEFAULT_TARGETS["prior"]
    trained = _adapters(options, checkpoint.load_prior(device, dtype), targets)
    assert isinstance(trained.network, PriorModel)
    objective = PriorObjective(trained.network)
    return PartTraining(
        "prior", options, trained, objective, items[:count], items[count:], targets, base_model
    )


def _decoder_training(
    options: LoraOptions,
    checkpoint: Checkpoint,
    base_model: str,
    device: torch.device,
    dtype: torch.dtype,
    items: Sequence[Painted],
    count: int,
) -> PartTraining[Painted]:
    targets = options.decoder_targets or DEFAULT_TARGETS["decoder"]
    nothing = empty_glyphs(checkpoint, device, dtype)
    trained = _adapters(options, checkpoint.load_dit(device, dtype), targets)
    assert isinstance(trained.network, DiT)
    objective = DecoderObjective(
        trained.network, checkpoint.scheduler_config, nothing, options.drop
    )
    return PartTraining(
        "decoder", options, trained, objective, items[:count], items[count:], targets, base_model
    )


def _adapters(options: LoraOptions, network: PriorModel | DiT, targets: Sequence[str]) -> Trained:
    scale = options.strength / options.rank
    trained = Trained(network, targets, options.rank, scale, options.seed)
    large = sum(p.numel() for p in network.parameters()) >= CHECKPOINTED_VALUES
    if large if options.checkpointing is None else options.checkpointing:
        trained.forget_activations()
    needed = 4 * STATE_COPIES * sum(p.numel() for p in trained.parameters())
    free = shutil.disk_usage(options.out).free
    if free < needed:
        raise OutputError(
            f"{free // 2**20} MiB are free in {str(options.out)!r}, and the adapters with their "
            f"state need {needed // 2**20 + 1}.",
            hint="Make space, take a smaller --rank, or choose another folder with --output.",
        )
    return trained


def _check_out(options: LoraOptions) -> None:
    """Refuse to overwrite an earlier training, and a folder that cannot be written."""
    for part in options.parts:
        folder = options.out / part
        if not (folder / STATE_FILE).is_file():
            if folder.exists() and any(folder.iterdir()):
                raise InvalidSettings(
                    f"{str(folder)!r} holds files already, and none of a training to go on with.",
                    hint="Name a new folder with --output.",
                )
            continue
        if not options.resume:
            raise InvalidSettings(
                f"{str(folder)!r} holds a training already.",
                hint="Go on with it with --resume, or name a new folder with --output.",
            )
        check_same_options(folder, options)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        probe = options.out / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"Cannot write in {str(options.out)!r}: {reason}.") from None


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
