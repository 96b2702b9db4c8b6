"""Follow a request through the processes that work on it, with OpenTelemetry where it is wanted.

A span's context travels as W3C traceparent text, in headers and with the job. Without an address
for traces nothing is recorded and OpenTelemetry is not imported; it is an extra of the package.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Values = Mapping[str, str | int | float | bool]
Role = Literal["internal", "server", "consumer", "client"]
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Tracer:
    """Record spans; a tracer without a provider records nothing."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("glmimage")

    @property
    def records(self) -> bool:
        return self._tracer is not None

    @contextmanager
    def span(
        self, name: str, parent: str | None = None, role: Role = "internal", **values: Any
    ) -> Iterator[str | None]:
        """Record what happens within; gives the context to hand on. An exception marks it."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import Status, StatusCode

        span = self._tracer.start_span(
            name, _context(parent), _kind(role), values, start_time=time.time_ns()
        )
        try:
            yield _traceparent(span)
        except BaseException as error:
            # only the kind: an error's words may quote a prompt
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end(time.time_ns())

    def record(
        self, name: str, parent: str | None, began: float, ended: float, values: Values
    ) -> None:
        """Record what has happened already. began, ended: unix seconds."""
        if self._tracer is None or parent is None:
            return
        span = self._tracer.start_span(
            name, _context(parent), attributes=values, start_time=int(began * 1e9)
        )
        span.end(int(ended * 1e9))

    def close(self) -> None:
        """Send what is still here."""
        if self._provider is not None:
            self._provider.shutdown()


def open_tracer(address: str | None, service: str) -> Tracer:
    """Open http(s)://COLLECTOR:4318 or file:///PATH; raise InvalidSettings. None: no traces."""
    if address is None:
        return Tracer()
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(address)
    except ImportError:
        raise InvalidSettings(
            "GLMIMAGE_TRACES_URL is set, but OpenTelemetry is not installed.",
            hint="pip install 'glmimage[otel]'",
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return Tracer(provider)


def trace_id(traceparent: str | None) -> str | None:
    """Return the id of the trace that a context belongs to; None for none or for nonsense."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def _exporter(address: str) -> SpanExporter:
    if address.startswith("file://"):
        return _lines_in(Path(address.removeprefix("file://")))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = address.rstrip("/")
    return OTLPSpanExporter(base if base.endswith("/v1/traces") else f"{base}/v1/traces")


def _lines_in(path: Path) -> SpanExporter:
    """Return an exporter that appends a JSON line a span; several processes may share the file."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise InvalidSettings(
            f"GLMIMAGE_TRACES_URL: '{path}' cannot be written: {error.strerror}."
        ) from None

    class Lines(SpanExporter):
        _lock = threading.Lock()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            lines = "".join(f"{json.dumps(_described(span))}\n" for span in spans)
            with self._lock, path.open("a", encoding="utf-8") as file:
                file.write(lines)
            return SpanExportResult.SUCCESS

    return Lines()


def _described(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": None if span.parent is None else f"{span.parent.span_id:016x}",
        "service": span.resource.attributes.get("service.name"),
        "start": (span.start_time or 0) / 1e9,
        "end": (span.end_time or 0) / 1e9,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }


def _context(parent: str | None) -> Any:
    """Return the context of a parent; an empty one without."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": parent} if parent else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _traceparent(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _kind(role: Role) -> Any:
    from opentelemetry.trace import SpanKind

    return SpanKind[role.upper()]
