"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option(help="nano, a folder in the diffusers layout, or a Hugging Face id.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Memory = Annotated[
    str | None,
    typer.Option(
        help="resident, staged (one stage on the device), layered (layer by layer), or auto."
    ),
]
LossySwitches = Annotated[
    str | None,
    typer.Option(
        "--lossy",
        metavar="SWITCHES",
        help="What may be traded for speed or memory, such as "
        "weights=int8,guidance=0-0.6,step_cache=0.08; see docs/lossy.md.",
    ),
]
Fast = Annotated[
    str | None,
    typer.Option(
        metavar="SWITCHES",
        help="Of compile, graphs (CUDA) and guesses, those wanted, by commas: the same pictures "
        "but for rounding, faster after a warm-up.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Everything the service keeps is here.")
]
LoraDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Adapters that requests may name: a folder of each."),
]
