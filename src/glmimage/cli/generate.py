"""`glmimage generate` and `make-tiny`: a picture, or a toy checkpoint, on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import InvalidRequest, InvalidSize
from ..lora import MAX_LORA_SCALE, MAX_LORAS, lora_parts, parse_lora
from ..types import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_SIDE,
    MAX_SOURCE_IMAGES,
    MAX_STEPS,
    MIN_GUIDANCE,
    MIN_SIDE,
    MIN_STEPS,
    SIDE_STEP,
    SIZE_PRESETS,
    GenerationRequest,
    PictureReady,
    check_size,
    parse_size,
)
from .options import Device, Dtype, Fast, LossySwitches, Memory, Model
from .verify import choose, load_reader, sentence
from .waiting import sleep_where_others_work

if TYPE_CHECKING:
    from PIL import Image

    from ..config import Settings
    from ..evaluation.text_check import TextCheck
    from ..memory import MemoryPlan

Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What to paint; words to be written, in quotes.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write; several pictures are numbered. By default glmimage-SEED.png.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET|WxH",
        help=f"{', '.join(SIZE_PRESETS)}, or such as 1024x576: both sides "
        f"{MIN_SIDE} to {MAX_SIDE} in steps of {SIDE_STEP}. By default square_hd.",
    ),
]
Width = Annotated[int | None, typer.Option(help="Instead of --size, with --height.")]
Height = Annotated[int | None, typer.Option(help="Instead of --size, with --width.")]
Steps = Annotated[int, typer.Option(help=f"Denoise steps, {MIN_STEPS} to {MAX_STEPS}.")]
Guidance = Annotated[
    float, typer.Option(help=f"Guidance scale, {MIN_GUIDANCE:g} to {MAX_GUIDANCE:g}; 1 is none.")
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same picture. By default random.")]
NumImages = Annotated[int, typer.Option(help=f"How many pictures, 1 to {MAX_IMAGES}.")]
References = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help=f"A reference picture, up to {MAX_SOURCE_IMAGES} times, the main subject first.",
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH[:SCALE]",
        help=f"A folder of adapters, up to {MAX_LORAS} times; scale 0 to {MAX_LORA_SCALE:g}, by "
        "default 1.",
    ),
]
PictureFormat = Annotated[
    Literal["png", "jpeg"] | None,
    typer.Option("--format", help="By default the name of FILE decides, or png."),
]
VerifyText = Annotated[
    bool,
    typer.Option("--verify-text", help="Read the pictures; tell which quoted words were found."),
]
BestOf = Annotated[
    int,
    typer.Option(
        help=f"Paint so many, 1 to {MAX_IMAGES}, and keep the pictures with most quoted words "
        "legible; means --verify-text."
    ),
]


def generate(
    prompt: Prompt,
    output: Output = None,
    size: Size = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = GenerationRequest.num_inference_steps,
    guidance: Guidance = GenerationRequest.guidance_scale,
    seed: Seed = None,
    num_images: NumImages = 1,
    image: References = None,
    lora: Loras = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    lossy: LossySwitches = None,
    fast: Fast = None,
    picture_format: PictureFormat = None,
    verify_text: VerifyText = False,
    best_of: BestOf = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Paint a prompt, and write it to a file."""
    from ..config import load_settings
    from ..output import PictureFiles, choose_paths

    width, height = _choose_size(size, width, height)
    reads = verify_text or best_of != 1
    if reads:
        from ..evaluation.text_check import check_choice

        check_choice(prompt, num_images, best_of, "--best-of")
    request = GenerationRequest(
        prompt,
        width,
        height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        num_images=num_images,
        source_images=_open_references(image or []),
        loras=tuple(parse_lora(text) for text in lora or ()),
    ).seeded()
    for one in request.loras:
        lora_parts(one.path)  # refused now, not after the model is loaded
    if best_of > 1:
        request = replace(request, num_images=best_of)
    paths, chosen_format = choose_paths(output, picture_format, num_images, request.seed or 0)
    settings = load_settings(
        model=model, device=device, dtype=dtype, memory=memory, lossy=lossy, fast=fast
    )
    reader = load_reader() if reads else None
    # an incompressible PNG is a little larger than its pixels
    needed_bytes = num_images * width * height * 3 * 21 // 20
    with PictureFiles(paths, chosen_format, needed_bytes) as files:
        pictures, timings, plan = _paint(settings, request, visible=not (quiet or as_json))
        checks: list[TextCheck] = []
        if reader is not None:
            pictures, checks = choose(pictures, prompt, reader, num_images)
        for index, picture in enumerate(pictures):
            files.write(index, picture.image)
        files.finish()
    seeds = [picture.seed for picture in pictures]
    if as_json:
        document = _describe(settings, request, paths, seeds, timings)
        document["memory"] = {"mode": plan.mode, "why": plan.why}
        if checks:
            document["text_check"] = [check.as_document() for check in checks]
        typer.echo(json.dumps(document, ensure_ascii=False))
    elif not quiet:
        for path, picture_seed in zip(paths, seeds, strict=True):
            typer.echo(f"{path}  {width}x{height}  seed {picture_seed}")
        for path, check in zip(paths, checks, strict=False):
            typer.echo(f"{path}  {sentence(check)}")
        stages = [f"{name.removesuffix('_s')} {value:.2f} s" for name, value in timings.items()]
        typer.echo(", ".join(stages))


def make_tiny(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or an empty folder.", show_default=False)
    ],
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
) -> None:
    """Write a random toy checkpoint of a few MB: every component, in the layout of the real one."""
    from ..output import NewFolder

    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequest(f"seed is {seed}; it must be between 0 and {MAX_SEED}.", field="seed")
    with NewFolder(directory) as folder:
        from ..loading.tiny import make_tiny as write_tiny

        write_tiny(folder, seed)
    typer.echo(str(directory))


def _choose_size(size: str | None, width: int | None, height: int | None) -> tuple[int, int]:
    if width is None and height is None:
        return parse_size(size if size is not None else "square_hd")
    if size is not None:
        raise InvalidSize("Give either --size, or --width and --height.")
    if width is None or height is None:
        raise InvalidSize("--width and --height go together; one is missing.")
    return check_size(width, height)


def _open_references(files: Sequence[Path]) -> tuple[Image.Image, ...]:
    from ..source_images import open_source_image

    if len(files) > MAX_SOURCE_IMAGES:
        # before any of them is opened
        raise InvalidRequest(
            f"--image was given {len(files)} times; at most {MAX_SOURCE_IMAGES} are used."
        )
    return tuple(open_source_image(file) for file in files)


def _paint(
    settings: Settings, request: GenerationRequest, *, visible: bool
) -> tuple[list[PictureReady], dict[str, float], MemoryPlan]:
    """Run the pipeline; return the pictures, the seconds by stage, and what is in memory when."""
    from ..progress import Progress

    pictures: dict[int, PictureReady] = {}
    timings: dict[str, float] = {}
    folder = _find_model(settings, visible=visible)
    started = perf_counter()
    with Progress(request.num_images, visible=visible) as progress:
        sleep_where_others_work()
        from ..pipeline import Pipeline

        pipeline = Pipeline.load(
            str(folder),
            device=None if settings.device == "auto" else settings.device,
            dtype=None if settings.dtype == "auto" else settings.dtype,
            memory=settings.memory,
            lossy=settings.lossy,
            fast=settings.fast,
            on_progress=progress.load,
        )
        timings["load_s"], plan = perf_counter() - started, pipeline.stages.plan
        progress.say(f"memory mode {plan}")
        for event in pipeline.stream(request):
            progress.show(event)
            if isinstance(event, PictureReady):
                pictures[event.image_index] = event
                for name, seconds in event.timings.items():
                    timings[name] = timings.get(name, 0.0) + seconds
    timings["total_s"] = perf_counter() - started
    return [pictures[index] for index in range(request.num_images)], timings, plan


def _find_model(settings: Settings, *, visible: bool) -> Path:
    """Return the model's folder, downloading what is missing; needs no torch to refuse a name."""
    os.environ.update(settings.hub_environment())
    if not visible:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from ..loading.hub import resolve_model

    return resolve_model(settings.model)


def _describe(
    settings: Settings,
    request: GenerationRequest,
    paths: Sequence[Path],
    seeds: Sequence[int],
    timings: dict[str, float],
) -> dict[str, object]:
    return {
        "images": [
            {"path": str(path), "width": request.width, "height": request.height, "seed": seed}
            for path, seed in zip(paths, seeds, strict=True)
        ],
        "prompt": request.prompt,
        "seed": request.seed,
        "model": settings.model,
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }
