"""`glmimage train lora`: adapters from a folder of pictures and captions."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import Device, Dtype, Model
from .waiting import sleep_where_others_work

if TYPE_CHECKING:
    from ..training.progress import TrainingEvent

training = typer.Typer(
    name="train", help="Teach a model what your pictures show.", no_args_is_help=True
)


@training.callback()
def _training() -> None:
    """Teach a model what your pictures show."""


@training.command("lora")
def train_lora(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Pictures, each with its caption in a .txt file of its name, or metadata.jsonl.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the adapters go.")
    ],
    train: Annotated[
        Literal["both", "prior", "decoder"], typer.Option(help="What is trained.")
    ] = "both",
    rank: Annotated[int, typer.Option(help="Of the adapters' matrices.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(help="They count alpha / rank. By default as the rank.")
    ] = None,
    steps: Annotated[int, typer.Option(help="For each part.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-4,
    batch: Annotated[int, typer.Option(help="Pictures of one size that are read at once.")] = 1,
    accumulate: Annotated[int, typer.Option(help="Batches that make a step.")] = 1,
    resolution: Annotated[
        int, typer.Option(help="Pictures are scaled to about its square, px.")
    ] = 1024,
    drop: Annotated[
        float, typer.Option(help="Share the decoder sees without tokens and glyphs, for guidance.")
    ] = 0.1,
    validation: Annotated[
        float, typer.Option(help="Share of the pictures that is kept out and measured.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed, the same adapters.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    prior_target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A layer of the prior, or the end of its name."),
    ] = None,
    decoder_target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A layer of the decoder, or the end of its name."),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Compute activations again instead of keeping them. By default for large models.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in --output.")
    ] = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train low-rank adapters of the prior and the decoder, in PEFT's format."""
    from ..config import load_settings
    from ..training.options import LoraOptions

    options = LoraOptions(
        folder=directory,
        out=output,
        parts=("prior", "decoder") if train == "both" else (train,),
        rank=rank,
        alpha=alpha,
        steps=steps,
        learning_rate=learning_rate,
        batch=batch,
        accumulate=accumulate,
        resolution=resolution,
        drop=drop,
        validation=validation,
        seed=seed,
        save_every=save_every,
        prior_targets=tuple(prior_target or ()),
        decoder_targets=tuple(decoder_target or ()),
        checkpointing=checkpointing,
        resume=resume,
    )
    settings = load_settings(model=model, device=device, dtype=dtype)
    os.environ.update(settings.hub_environment())
    raise typer.Exit(_run(options, settings, quiet=quiet or as_json, as_json=as_json))


def _run(options: Any, settings: Any, *, quiet: bool, as_json: bool) -> int:
    """Train, show it, and return the exit code: 128 and the signal's number when stopped by one."""
    from ..loading.hub import resolve_model
    from ..training.dataset import read_folder

    read_folder(options.folder, options.resolution)  # refused before torch is loaded
    folder = resolve_model(settings.model)
    sleep_where_others_work()
    from ..training.lora import train_lora as start
    from ..training.progress import Encoded

    stop = _Stop()
    events = start(
        options,
        str(folder),
        settings.model,
        None if settings.device == "auto" else settings.device,
        None if settings.dtype == "auto" else settings.dtype,
        should_stop=lambda: bool(stop.number),
    )
    last: dict[str, dict[str, Any]] = {}
    with stop:
        for event in events:
            _show(event, last, quiet=quiet)
            if stop.number and isinstance(event, Encoded):
                break
    if as_json:
        typer.echo(json.dumps({"path": str(options.out), "parts": last}))
    if stop.number:
        typer.echo(
            "Stopped; what was learnt is saved. Go on with the same command and --resume.", err=True
        )
        return 128 + stop.number
    if not quiet:
        typer.echo(f"{options.out}  use it with: glmimage generate ... --lora {options.out}")
    return 0


class _Stop:
    """Let a first SIGINT or SIGTERM end the training after its step, and a second one at once."""

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()


def _show(event: TrainingEvent, last: dict[str, dict[str, Any]], *, quiet: bool) -> None:
    """Print a line a checkpoint, and one that is written over for what lies between."""
    from ..training.progress import Encoded, Saved, Stepped

    shown = not quiet and typer.get_text_stream("stderr").isatty()
    if isinstance(event, Encoded):
        text = f"{event.what} {event.done}/{event.total}"
    elif isinstance(event, Stepped):
        last[event.part] = {"step": event.step, "loss": round(event.loss, 6)}
        left = (event.steps - event.step) * event.seconds
        text = f"{event.part} {event.step}/{event.steps}  loss {event.loss:.4f}  {left:.0f} s left"
    else:
        assert isinstance(event, Saved)
        text = f"{event.part} {event.step}: loss {last[event.part]['loss']:.4f}"
        if event.validation is not None:
            last[event.part]["validation"] = round(event.validation, 6)
            text += f", validation {event.validation:.4f}"
        text += f", saved in {event.path}"
    if shown:
        typer.echo(f"\r\x1b[K{text}", err=True, nl=isinstance(event, Saved))
    elif not quiet and isinstance(event, Saved):
        typer.echo(text, err=True)
