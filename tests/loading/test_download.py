"""Interrupted downloads, with the real client in processes of its own and a hub on this machine."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from glmimage.loading.tiny import make_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = f"/owner/name/resolve/{COMMIT}/"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


class Hub(ThreadingHTTPServer):
    """Serve one folder as owner/name; the first time, a file in `cut` or `stuck` stops half-way."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder, self.cut, self.stuck = folder, set(), set()
        self.sent, self.released = Counter(), threading.Event()


class _Answers(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/name/revision/"):
            self.reply(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith("/api/models/owner/name/tree/"):
            files = [file for file in sorted(self.server.folder.rglob("*")) if file.is_file()]
            names = [str(file.relative_to(self.server.folder)) for file in files]
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": f"{n:040x}"}
                for n, (name, file) in enumerate(zip(names, files, strict=True))
            ]
            self.reply(json.dumps(tree).encode())
        elif path.startswith(RESOLVE):
            self.send_file(path.removeprefix(RESOLVE))
        else:
            self.send_error(404)

    def send_file(self, name):
        data = (self.server.folder / name).read_bytes()
        headers = {"ETag": f'"{abs(hash(name)):x}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            return self.reply(data, headers)
        self.server.sent[name] += 1
        if name in self.server.cut | self.server.stuck and self.server.sent[name] == 1:
            self.reply(data, headers, stop_after=len(data) // 2)
            if name in self.server.stuck:
                self.server.released.wait(30)
        else:
            self.reply(data, headers)

    def reply(self, body, headers=(), stop_after=None):
        self.send_response(200)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:stop_after])
            self.wfile.flush()


@pytest.fixture
def hub(tmp_path):
    server = Hub(make_tiny(tmp_path / "tiny"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


PROGRAM = """
from glmimage.errors import ModelError
from glmimage.loading.hub import resolve_model
try:
    print(resolve_model("owner/name"))
except ModelError as error:
    print(type(error).__name__, error, sep="|")
"""


@pytest.fixture
def start(hub, tmp_path):
    """Start a process that resolves owner/name and prints the folder or the error."""

    def start(**extra):
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=environment | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    return start


def output(process):
    return process.communicate(timeout=60)[0].strip()


def same_files(hub, folder):
    files = [file.relative_to(hub.folder) for file in hub.folder.rglob("*") if file.is_file()]
    return all((Path(folder) / f).read_bytes() == (hub.folder / f).read_bytes() for f in files)


def test_after_a_kill_only_the_unfinished_file_is_fetched_again(hub, start, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1"}
    absent = "ModelNotFound|owner/name is {} on this machine, and downloads are switched off."
    assert output(start(**offline)) == absent.format("not")

    hub.stuck.add(VAE_FILE)
    killed = start()
    num_files = sum(file.is_file() for file in hub.folder.rglob("*"))
    snapshot = tmp_path / "cache" / "models--owner--name" / "snapshots" / COMMIT
    deadline = time.monotonic() + 30
    while sum(file.is_file() for file in snapshot.rglob("*")) < num_files - 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    hub.released.set()
    assert output(start(**offline)) == absent.format("only partly")

    folder = output(start())
    assert same_files(hub, folder)
    assert hub.sent.pop(VAE_FILE) == 2
    assert len(hub.sent) == num_files - 1
    assert set(hub.sent.values()) == {1}

    # complete: nothing is fetched any more, and nothing has to be
    assert output(start()) == output(start(**offline)) == folder
    assert set(hub.sent.values()) == {1}


def test_a_connection_that_breaks_is_opened_again(hub, start):
    hub.cut.add(VAE_FILE)
    assert same_files(hub, output(start()))
    assert hub.sent[VAE_FILE] == 2
