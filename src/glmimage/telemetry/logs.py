"""Set up the process's log: one event a line, as JSON or for people, each with its request id."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager
from traceback import TracebackException
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars

from .tracing import trace_id

LEVELS = ("debug", "info", "warning", "error")
Line = MutableMapping[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def set_up_logging(form: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process to stderr. form: "json" or "human"."""
    stream = stream or sys.stderr
    before: list[Any] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _request_id_always,
    ]
    after: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        told = structlog.processors.ExceptionRenderer(_told)
        after += [told, structlog.processors.JSONRenderer()]
    else:
        colours = stream.isatty()
        after += [
            structlog.dev.ConsoleRenderer(
                colors=colours,
                exception_formatter=_tell,
                sort_keys=False,
                pad_event_to=0,
            )
        ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=after)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("glmimage").setLevel(level.upper())


def about_request(request_id: str, trace: str | None = None) -> None:
    """Let the lines that follow in this task be about a request."""
    bind_contextvars(request_id=request_id, trace_id=trace_id(trace))


def while_about(request_id: str, trace: str | None = None) -> AbstractContextManager[None]:
    """Let the lines within be about a request."""
    return bound_contextvars(request_id=request_id, trace_id=trace_id(trace))


def _tell(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.write(f"\n{_told(exc_info)}")


def _told(exc_info: ExcInfo) -> str:
    """Return an error with its traceback, and no values: they may be prompts or keys."""
    return "".join(_lines(TracebackException(*exc_info, compact=True))).rstrip("\n")


def _lines(error: TracebackException) -> Iterator[str]:
    context = None if error.__suppress_context__ else error.__context__
    before = error.__cause__ or context
    for one in [*([before] if before else ()), *(error.exceptions or ())]:
        yield from _lines(one)
        yield "\nDuring handling of the above exception, another exception occurred:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from error.stack.format()
    # below a message's first line libraries show values: a statement's parameters, a row, an input
    yield f"{next(error.format_exception_only()).splitlines()[0]}\n"


def _request_id_always(logger: object, method: str, line: Line) -> Line:
    line.setdefault("request_id", None)
    if line.get("trace_id") is None:
        line.pop("trace_id", None)
    return line
