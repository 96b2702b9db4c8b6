"""`glmimage serve` and `glmimage worker`: the two kinds of process of the service."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidSettings
from .options import DataDir, Device, Dtype, Fast, LoraDir, LossySwitches, Memory, Model
from .waiting import SPIN_COUNT

if TYPE_CHECKING:
    from ..config import Settings
    from ..jobs import Stage
    from ..server.process import Started

STAGES: tuple[Stage, ...] = ("prior", "decode")

Host = Annotated[
    str | None, typer.Option(help="Address to listen on; 0.0.0.0 is every one. [127.0.0.1]")
]
HttpPort = Annotated[int | None, typer.Option(help="0 takes any free one. [8000]")]
HttpsPort = Annotated[int | None, typer.Option(help="0 takes any free one. [8443]")]
Workers = Annotated[int | None, typer.Option(help="How many workers to start beside it. [1]")]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Ask for no key; loopback only.")]


def serve(
    host: Host = None,
    http_port: HttpPort = None,
    https_port: HttpsPort = None,
    data_dir: DataDir = None,
    workers: Workers = None,
    no_auth: NoAuth = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    lossy: LossySwitches = None,
    fast: Fast = None,
    lora_dir: LoraDir = None,
) -> None:
    """Serve fal's API for GLM-Image: http and https, with a worker beside it."""
    from ..config import PREFIX, load_settings
    from ..telemetry.logs import set_up_logging

    settings = load_settings(
        host=host,
        http_port=http_port,
        https_port=https_port,
        data_dir=data_dir,
        workers=workers,
        auth=False if no_auth else None,
        model=model,
        device=device,
        dtype=dtype,
        memory=memory,
        lossy=lossy,
        fast=fast,
        lora_dir=lora_dir,
    )
    # the worker reads the same settings, options included
    for name in ("data_dir", "model", "device", "dtype", "memory", "lossy", "fast"):
        os.environ[PREFIX + name.upper()] = str(getattr(settings, name))
    if settings.lora_dir is not None:
        os.environ[f"{PREFIX}LORA_DIR"] = str(settings.lora_dir)
    if settings.workers > 1:  # they would spin on each other's processors
        os.environ.setdefault(SPIN_COUNT, "0")
    set_up_logging(settings.log_format, settings.log_level)
    from ..server.process import Callbacks, run_service

    command = [sys.executable, "-m", "glmimage", "worker", "--until-stdin-closes"]
    tell = Callbacks(_say_started, _say_ready, lambda: typer.echo("Stopping."))
    raise typer.Exit(run_service(settings, command, tell))


def worker(
    stages: Annotated[
        str, typer.Option(metavar="prior,decode", help="Which halves of the work to take.")
    ] = "prior,decode",
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    lossy: LossySwitches = None,
    fast: Fast = None,
    lora_dir: LoraDir = None,
    until_stdin_closes: Annotated[
        bool, typer.Option(hidden=True, help="Stop when the process that started this is gone.")
    ] = False,
) -> None:
    """Work on requests that a server with the same settings has queued."""
    from ..config import load_settings
    from ..telemetry.logs import set_up_logging

    settings = load_settings(
        data_dir=data_dir,
        model=model,
        device=device,
        dtype=dtype,
        memory=memory,
        lossy=lossy,
        fast=fast,
        lora_dir=lora_dir,
    )
    named = [part.strip() for part in stages.split(",")]
    chosen = tuple(stage for stage in STAGES if stage in named)
    if not set(named) <= set(STAGES):
        raise InvalidSettings(f"--stages is '{stages}'; it must be prior, decode or both.")
    set_up_logging(settings.log_format, settings.log_level)
    if until_stdin_closes:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    _run_worker(settings, chosen)


def _run_worker(settings: Settings, stages: tuple[Stage, ...]) -> None:
    os.environ.update(settings.hub_environment())
    from ..jobs import StoreUnavailable
    from ..worker import run_worker

    try:
        code = run_worker(settings, stages=stages)
    except StoreUnavailable as error:
        # unlike a wrong setting this may be over soon: whoever keeps workers running tries again
        typer.echo(f"Error: {error} {error.hint}".rstrip(), err=True)
        code = 1
    raise typer.Exit(code)


def _stop_with_parent() -> None:
    # the other end of the pipe is the parent's; the kernel closes it however the parent ends
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _say_started(started: Started) -> None:
    serving, settings = started.serving, started.settings
    lines = [
        f"glmimage serves {settings.model} from {settings.data_dir}",
        f"  http   http://{serving.http}",
        f"  https  https://{serving.https}",
    ]
    if serving.ca is not None:
        lines.append(f"  CA     {serving.ca}")
    if started.new_key is not None:
        lines.append(f"  key    {started.new_key}   (made now; kept in keys/first-key)")
    elif not serving.auth:
        lines.append("  key    none is asked for")
    # the part behind # stays in the browser; it carries the key once, when it is made
    key = f"#key={started.new_key}" if started.new_key is not None else ""
    lines.append(f"  page   http://{serving.http}/{key}")
    lines += [
        "Scripts written for fal talk to it, unchanged, when they are started so:",
        "  glmimage exec -- python poster.py",
        '  eval "$(glmimage env)"',
    ]
    typer.echo("\n".join(lines))


def _say_ready(seconds: float) -> None:
    typer.echo(f"Ready: the model was loaded in {seconds:.1f} s. Ctrl-C stops everything.")
