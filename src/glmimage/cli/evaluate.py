"""`glmimage eval`: measure a checkpoint, or pictures that exist already."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..types import MAX_STEPS, MIN_STEPS, GenerationRequest, parse_size
from .options import Device, Dtype, LossySwitches, Memory, Model
from .waiting import sleep_where_others_work

if TYPE_CHECKING:
    from PIL import Image

    from ..evaluation.rows import Row
    from ..evaluation.run import Paints

evaluation = typer.Typer(name="eval", help="Measure a model.", no_args_is_help=True)


@evaluation.callback()
def _evaluation() -> None:
    """Measure a model."""


@evaluation.command("text")
def evaluate_text(
    prompts: Annotated[
        Path, typer.Argument(metavar="SET", help="A JSON file of prompts, see recipes/nano/eval/.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Results go here; a stopped run goes on.")
    ] = Path("out/eval"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Judge pictures painted before, named by id; no model."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An earlier run's .jsonl to compare with.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PRESET|WxH", help="Instead of the sizes of the set.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=MIN_STEPS, max=MAX_STEPS, help="Denoise steps.")
    ] = GenerationRequest.num_inference_steps,
    guidance: Annotated[
        float, typer.Option(help="Guidance scale.")
    ] = GenerationRequest.guidance_scale,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    lossy: LossySwitches = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the tables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Paint a set of prompts, read the pictures, and say how often they are as asked."""
    from ..config import load_settings
    from ..evaluation.reading import Reader
    from ..evaluation.rows import load_rows
    from ..evaluation.run import (
        PicturesOf,
        checkpoint_fingerprint,
        evaluate,
        load_results,
        set_fingerprint,
        write_report,
    )

    rows = load_rows(prompts, parse_size(size) if size else None)
    old = load_results(compare) if compare else None
    made_with: dict[str, Any] = {"set": prompts.stem, "set_version": set_fingerprint(prompts)}
    paint: Callable[[], Paints]
    if pictures is not None:
        made_with["pictures"] = str(pictures)
        paint = lambda: PicturesOf(pictures)  # noqa: E731
    else:
        options = {"num_inference_steps": steps, "guidance_scale": guidance}
        # refused now, not after the model is loaded
        GenerationRequest(rows[0].prompt, rows[0].width, rows[0].height, **options)  # type: ignore[arg-type]
        settings = load_settings(
            model=model, device=device, dtype=dtype, memory=memory, lossy=lossy
        )
        os.environ.update(settings.hub_environment())
        from ..loading.hub import resolve_model

        folder = resolve_model(settings.model)
        version = checkpoint_fingerprint(folder)
        made_with |= {"model": settings.model, "model_version": version, **options}
        made_with |= {"device": settings.device, "dtype": settings.dtype}
        made_with |= {"lossy": settings.lossy} if settings.lossy else {}
        placing = {"device": settings.device, "dtype": settings.dtype}
        placing |= {"memory": settings.memory, "lossy": settings.lossy}
        shown = not (quiet or as_json)
        paint = lambda: _load(folder, placing, options, visible=shown)  # noqa: E731
    name = prompts.stem + (f"-{size}" if size else "")
    path = out / f"{name}.jsonl"
    reader = Reader()
    chosen, verdicts = rows[:first], []
    for number, verdict in enumerate(evaluate(chosen, made_with, path, paint, reader), 1):
        verdicts.append(verdict)
        if not (quiet or as_json):
            read = " / ".join(text for text, _ in verdict.read)
            typer.echo(f"{number}/{len(chosen)} {verdict.id}: {read}", err=True)
    document = write_report(chosen, verdicts, path, old)
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        typer.echo(path.with_suffix(".md").read_text(encoding="utf-8"), nl=False)


def _load(
    folder: Path, placing: dict[str, str], options: dict[str, Any], *, visible: bool
) -> Paints:
    """Load the model; return what paints a row."""
    sleep_where_others_work()
    from ..pipeline import Pipeline

    chosen = {name: None if value == "auto" else value for name, value in placing.items()}
    pipeline = Pipeline.load(
        str(folder),
        chosen["device"],
        chosen["dtype"],
        memory=placing["memory"],
        lossy=placing["lossy"],
    )
    if visible:
        typer.echo(f"memory mode {pipeline.stages.plan}", err=True)

    def paint(row: Row, sources: Sequence[Image.Image]) -> Image.Image:
        request = GenerationRequest(
            row.prompt,
            row.width,
            row.height,
            seed=row.seed,
            source_images=tuple(sources),
            **options,
        )
        return pipeline.generate(request).images[0]

    return paint
