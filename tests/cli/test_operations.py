"""One request through a real server and a real worker: one trace, one id on every line of log."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from itertools import pairwise

import pytest

from glmimage.server.serving import find_serving, first_key_file

APP = "fal-ai/glm-image"
CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
PROMPT = "A sign that says 'SECRET'"
PARTS = {"submit", "claim", "prior", "denoise", "decode", "store", "finish", "webhook"}
DEADLINE_S = 180


@pytest.fixture(scope="module")
def hook():
    """Listen for a webhook."""
    came = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            came.set()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", came
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory, hook):
    """Serve one request with a worker, and end; return its id, spans, log lines, health file."""
    folder, (hook_url, came) = tmp_path_factory.mktemp("run"), hook
    data, spans, health = folder / "data", folder / "spans.jsonl", folder / "alive"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")}
    settings = {
        "DATA_DIR": str(data),
        "MODEL": str(tiny_dir),
        "DEVICE": "cpu",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
        "TRACES_URL": f"file://{spans}",
        "HEALTH_FILE": str(health),
        "WEBHOOK_HOSTS": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "glmimage", "serve", "--http-port", "0", "--https-port", "0"],
        env=kept | {f"GLMIMAGE_{k}": v for k, v in settings.items()} | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr))
    reader.start()
    try:
        wait_for(lambda: find_serving(data))
        request_id = submit(data, hook_url)
        assert came.wait(DEADLINE_S)
        wait_for(lambda: 'outcome="delivered"' in metrics(data))
        touched = health.stat().st_mtime
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        reader.join(10)
    lines = [json.loads(line) for line in spans.read_text().splitlines()]
    return request_id, lines, "".join(log), (touched, health)


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def call(data, path, body=None, **headers):
    headers |= {"Authorization": f"Key {first_key_file(data).read_text().strip()}"}
    address = f"http://{find_serving(data).http}{path}"
    content = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, content, headers), timeout=30) as answer:
        return answer.read().decode()


def submit(data, hook_url):
    body = {"prompt": PROMPT, "image_size": "square", "num_inference_steps": 10}
    path = f"/queue/{APP}?fal_webhook={hook_url}"
    answer = call(data, path, body, traceparent=CALLER, **{"Content-Type": "application/json"})
    return json.loads(answer)["request_id"]


def metrics(data):
    return call(data, "/metrics")


def test_one_trace_covers_the_request_in_both_processes(run):
    _, spans, _, _ = run
    assert {span["trace_id"] for span in spans} == {"a" * 32}
    by_name = {span["name"]: span for span in spans}
    assert by_name.keys() == PARTS
    assert len(spans) == len(PARTS)
    assert by_name["submit"]["parent_id"] == "b" * 16
    own = by_name["submit"]["span_id"]
    assert all(span["parent_id"] == own for name, span in by_name.items() if name != "submit")
    gateway = {name for name, span in by_name.items() if span["service"] == "glmimage-gateway"}
    assert gateway == {"submit", "webhook"}


def test_the_parts_of_a_trace_follow_one_another(run):
    _, spans, _, _ = run
    by_name = {span["name"]: span for span in spans}
    order = ["claim", "prior", "denoise", "decode", "store", "finish", "webhook"]
    for earlier, later in pairwise(order):
        # clocks of threads agree to a few milliseconds
        assert by_name[earlier]["start"] <= by_name[later]["start"] + 0.01
        assert by_name[earlier]["end"] <= by_name[later]["end"] + 0.01
    assert by_name["submit"]["attributes"]["request_id"] == run[0]
    assert by_name["claim"]["attributes"]["attempt"] == 1


def test_every_line_is_json_and_those_of_a_request_have_its_id(run):
    request_id, _, log, _ = run
    lines = [json.loads(line) for line in log.splitlines()]
    assert all("request_id" in line for line in lines)
    mine = [line for line in lines if line["request_id"] == request_id]
    events = [line["event"] for line in mine]
    assert any(event.startswith("Request taken") for event in events)
    assert any(event.startswith("Finished in") for event in events)
    assert any(event.startswith("POST /queue") for event in events)
    assert {line.get("trace_id") for line in mine} == {"a" * 32}


def test_prompts_stay_out_of_the_log_and_of_traces(run):
    _, spans, log, _ = run
    assert "SECRET" not in log
    assert "SECRET" not in json.dumps(spans)


def test_the_health_file_is_there_while_the_worker_works(run):
    touched, health = run[3]
    assert touched > 0
    assert not health.exists()
