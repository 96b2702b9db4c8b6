"""Spans belong together by their context, and cost nothing where nobody asks for them."""

import json
import subprocess
import sys
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from glmimage.errors import InvalidSettings
from glmimage.telemetry.tracing import Tracer, open_tracer, trace_id

CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture
def traced():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracer(provider), exporter.get_finished_spans


def test_a_span_continues_the_callers_trace(traced):
    tracer, finished = traced
    with tracer.span("submit", CALLER, "server", endpoint="e") as context:
        tracer.record("prior", context, 10.0, 12.5, {"image_index": 1})
    prior, submit = finished()
    assert trace_id(context) == "a" * 32
    assert f"{submit.context.trace_id:032x}" == f"{prior.context.trace_id:032x}" == "a" * 32
    assert f"{submit.parent.span_id:016x}" == "b" * 16
    assert prior.parent.span_id == submit.context.span_id
    assert (prior.start_time, prior.end_time) == (10_000_000_000, 12_500_000_000)
    assert (submit.kind.name, dict(submit.attributes)) == ("SERVER", {"endpoint": "e"})


@pytest.mark.parametrize(
    "parent", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
def test_without_a_usable_parent_a_trace_begins(traced, parent):
    tracer, finished = traced
    with tracer.span("submit", parent) as context:
        pass
    (span,) = finished()
    assert span.parent is None
    assert trace_id(context) == f"{span.context.trace_id:032x}"


def test_a_failure_is_marked_without_its_words(traced):
    tracer, finished = traced
    with pytest.raises(ValueError, match="secret"), tracer.span("submit"):
        raise ValueError("a secret prompt")
    (span,) = finished()
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "ValueError")
    assert span.events == ()


def test_what_has_no_trace_is_not_recorded(traced):
    tracer, finished = traced
    tracer.record("prior", None, 1.0, 2.0, {})
    assert finished() == ()


QUIET = """
import sys
from glmimage.telemetry.tracing import open_tracer
tracer = open_tracer(None, "x")
with tracer.span("a") as context:
    tracer.record("b", context, 1.0, 2.0, {})
tracer.close()
print(context, any(name.startswith("opentelemetry") for name in sys.modules))
"""


def test_without_an_address_nothing_is_imported():
    done = subprocess.run([sys.executable, "-c", QUIET], check=True, capture_output=True, text=True)
    assert done.stdout == "None False\n"


def test_without_the_extra_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidSettings, match="not installed") as refused:
        open_tracer("http://127.0.0.1:4318", "x")
    assert refused.value.hint == "pip install 'glmimage[otel]'"


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InvalidSettings, match="cannot be written"):
        open_tracer(f"file://{tmp_path}/taken", "x")


def test_spans_reach_a_collector_over_http(collector):
    url, received = collector
    tracer = open_tracer(url, "glmimage-gateway")
    with tracer.span("submit", CALLER):
        pass
    tracer.close()
    (path, content_type, body) = received[0]
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    assert bytes.fromhex("a" * 32) in body
    assert b"glmimage-gateway" in body


@pytest.fixture
def collector():
    import http.server
    import threading

    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            received.append((self.path, self.headers["content-type"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    server.server_close()


def test_several_processes_may_write_one_file(tmp_path):
    path = tmp_path / "traces" / "spans.jsonl"
    tracers = [open_tracer(f"file://{path}", name) for name in ("gateway", "worker")]
    with tracers[0].span("submit", CALLER) as context:
        pass
    tracers[1].record("prior", context, time.time() - 1, time.time(), {"image_index": 0})
    for tracer in tracers:
        tracer.close()
    submit, prior = map(json.loads, path.read_text().splitlines())
    assert prior["parent_id"] == submit["span_id"]
    assert (submit["service"], prior["service"]) == ("gateway", "worker")
    assert prior["end"] - prior["start"] == pytest.approx(1, abs=0.1)
