"""Write the pages of docs/ that are read off the code and the benchmark results.

python scripts/generate_docs.py            write them
python scripts/generate_docs.py --check    exit 1 when one is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from api_page import api_page
from performance import performance_page, read_results, readme_table
from sizing import sizing_table
from text_check_table import text_check_table

from glmimage.cli import app
from glmimage.config import PREFIX, Settings
from glmimage.telemetry.catalogue import METRICS
from glmimage.types import SIZE_PRESETS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
NOTE = "<!-- Written by scripts/generate_docs.py; change the code, then run `make docs`. -->"
EXIT_CODES = {
    0: "done",
    1: "an internal failure, or not enough memory",
    2: "the request, a setting, the model or the output is wrong; one sentence on stderr says what",
    130: "stopped by Ctrl-C; no file is left",
    143: "stopped by SIGTERM; no file is left",
}


def command_page() -> str:
    """Describe every command, setting, preset and exit code."""
    return "\n".join(
        [NOTE, "# Command line", *_commands(), *_settings(), *_sizes(), *_exit_codes()]
    )


def _commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        yield from _command(f"glmimage {name}", command)


def _command(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for part, inner in command.commands.items():
            yield from _command(f"{name} {part}", inner)
        return
    context = command.make_context(name, [], resilient_parsing=True)
    pieces = " ".join(command.collect_usage_pieces(context)).translate(dict.fromkeys(b"{}"))
    yield from ("", f"## {name}", command.help or "", "")
    yield from ("```", f"{name} {pieces}", "```", "", "| option | |", "| --- | --- |")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield _row(f"`{record[0]}`", record[1])


def _settings() -> Iterator[str]:
    yield from ("", "## Settings", "Read from the environment; an option wins.", "")
    yield from ("| variable | default | |", "| --- | --- | --- |")
    for name, field in Settings.model_fields.items():
        # no default, or one that depends on the machine, is told in the description
        shown = field.default_factory is None and field.default not in (None, "")
        default = f"`{field.default}`" if shown else ""
        yield _row(f"`{PREFIX}{name.upper()}`", default, field.description or "")


def _sizes() -> Iterator[str]:
    yield from ("", "## Sizes", "", "| preset | width x height |", "| --- | --- |")
    for name, (width, height) in SIZE_PRESETS.items():
        yield _row(f"`{name}`", f"{width} x {height}")


def _exit_codes() -> Iterator[str]:
    yield from ("", "## Exit codes", "", "| code | |", "| --- | --- |")
    for code, meaning in EXIT_CODES.items():
        yield _row(str(code), meaning)
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def readme() -> str:
    """Put nano's picture and the newest measurements between the marks of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = _between("picture", text, _picture())
    return _between("times", text, readme_table(read_results(RESULTS)))


def operations() -> str:
    """Put the table of metrics and that of the simulation between their marks."""
    rows = ["| metric | labels | from | |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.exported_labels)
        rows.append(_row(f"`{metric.name}`", labels, f"{metric.origin}", metric.text))
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    text = _between("metrics", text, "\n".join(rows) + "\n", "docs/operations.md")
    return _between("sizing", text, sizing_table(RESULTS), "docs/operations.md")


def nano() -> str:
    """Put what `best_of` does between its marks."""
    text = (ROOT / "docs/nano.md").read_text(encoding="utf-8")
    return _between("text-check", text, text_check_table(RESULTS), "docs/nano.md")


def _between(name: str, text: str, content: str, page: str = "README.md") -> str:
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end_mark, after = rest.partition(f"<!-- /{name} -->")
    if not mark or not end_mark:
        raise SystemExit(f"{page} has lost its marks for {name}.")
    return before + mark + content + end_mark + after


def _picture() -> str:
    """Show what `make demo` paints, with its command; nothing before there is such a picture."""
    if not (ROOT / "docs/images/demo.png").exists():
        return ""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = dict(re.findall(r"^DEMO_(\w+) \?= (.*)$", makefile, re.M))
    command = f'glmimage generate "{demo["PROMPT"]}" -o {demo["FILE"]} {demo["OPTIONS"]}'
    return f"![{demo['PROMPT']}](docs/images/demo.png)\n```sh\n{command}\n```\n"


PAGES = {
    "docs/api.md": lambda: api_page(NOTE),
    "docs/cli.md": command_page,
    "docs/nano.md": nano,
    "docs/operations.md": operations,
    "docs/performance.md": lambda: performance_page(NOTE, read_results(RESULTS)),
    "README.md": readme,
}


def main() -> None:
    stale = []
    for name, make in PAGES.items():
        file, text = ROOT / name, make()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
                print(f"wrote {name}")
    if "--check" in sys.argv and stale:
        sys.exit(f"Stale: {', '.join(stale)}. Run `make docs`.")


if __name__ == "__main__":
    main()
