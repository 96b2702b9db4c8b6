"""What commands that ask the job store share: the question, times, tables."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from ..config import Settings
    from ..jobs import JobStore

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


def ask(data_dir: Any, question: Callable[[JobStore], Awaitable[T]], *, create: bool = False) -> T:
    """Open the job store that the settings name, and ask it."""
    from ..config import load_settings

    return asyncio.run(_answer(load_settings(data_dir=data_dir), question, create))


async def _answer(
    settings: Settings, question: Callable[[JobStore], Awaitable[T]], create: bool
) -> T:
    from ..jobs import JobStore
    from ..server.serving import make_data_folder

    if create:
        make_data_folder(settings.data_dir)
    async with await JobStore.open(
        settings.store_url, create=create, direct_url=settings.database_direct_url
    ) as store:
        return await question(store)


def parse_since(text: str, option: str = "since") -> float:
    """Return the time of a date, or of so long ago; raise InvalidRequest."""
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if span:
        return time.time() - float(span[1]) * UNITS[span[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"--{option} is '{text}'; it must be a date such as 2026-01-31, or a span such as 7d.",
            field=option,
        ) from None


def day(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d")


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows, the first of which are the heads, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
