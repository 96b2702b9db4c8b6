"""All commands under one name, and what a failure looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..errors import Aborted, GlmImageError, OutOfMemory
from .accounts import keys, usage
from .clients import env, execute
from .doctor import doctor
from .evaluate import evaluation
from .generate import generate, make_tiny
from .jobs import jobs
from .mcp import mcp
from .service import serve, worker
from .train import training

app = typer.Typer(
    name="glmimage",
    help="Make pictures with GLM-Image, on this machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"glmimage {__version__}")
        raise typer.Exit


@app.callback()
def _glmimage(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Make pictures with GLM-Image, on this machine."""


app.command()(generate)
app.command()(serve)
app.command("exec", context_settings={"allow_interspersed_args": False})(execute)
app.command()(env)
app.command()(worker)
app.command()(mcp)
app.add_typer(keys)
app.command()(usage)
app.add_typer(jobs)
app.add_typer(evaluation)
app.add_typer(training)
app.command()(doctor)
app.command()(make_tiny)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; a foreseen failure is one sentence on stderr."""
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=list(arguments) or ["--help"], prog_name="glmimage", standalone_mode=False
        )
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        return _refuse(message.replace("Value error, ", ""), "See glmimage --help.")
    except GlmImageError as error:
        _refuse(str(error), error.hint)
        return 1 if isinstance(error, OutOfMemory | Aborted) else 2
    return code if isinstance(code, int) else 0


def _refuse(message: str, hint: str = "") -> int:
    sentence = message if message.endswith((".", ":", "?", ")")) else f"{message}."
    typer.echo(" ".join(f"Error: {sentence} {hint}".split()), err=True)
    return 2
