"""`exec` and `env`: what a program started by them reaches, and with what."""

import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from glmimage.cli import run
from glmimage.config import load_settings
from glmimage.server.serving import Serving, first_key_file
from glmimage.server.tls import prepare_tls

KEY = "id:secret"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Leave what a server leaves, with a server that repeats what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(
                [self.headers["Host"], self.path, self.headers["Authorization"], len(received)]
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *unused):
            pass

    data_dir = tmp_path_factory.mktemp("data")
    files = prepare_tls(load_settings(data_dir=data_dir))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    first_key_file(data_dir).parent.mkdir()
    first_key_file(data_dir).write_text(f"{KEY}\n")
    address = f"127.0.0.1:{httpd.server_port}"
    Serving(os.getpid(), "127.0.0.1:1", address, str(files.ca), True).save(data_dir)
    yield data_dir
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        monkeypatch.delenv(name)


def start(data_dir, *command, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "glmimage", "exec", "--data-dir", str(data_dir), "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def executed(data_dir, script):
    child = start(data_dir, sys.executable, "-c", script)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


ASK = """
import httpx, os
for url in {urls}:
    headers = {{"Authorization": "Key " + os.environ["FAL_KEY"]}}
    print(httpx.post(url, content=b"x" * 100_000, headers=headers).text)
"""


def test_python_reaches_the_server_under_every_name(data_dir):
    hosts = ["fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media"]
    hosts += ["falrun.com", "queue.falrun.com"]
    answers = executed(data_dir, ASK.format(urls=[f"https://{host}/a?b=c" for host in hosts]))
    assert answers == [[host, "/a?b=c", f"Key {KEY}", 100_000] for host in hosts]


def test_the_client_goes_to_the_server_directly(data_dir):
    script = """
import fal_client.client as c, httpx
print(httpx.post(c.RUN_URL_FORMAT + "a", content=b"").text)
print(httpx.post(c.QUEUE_URL_FORMAT + "a", content=b"").text)
"""
    run_answer, queue_answer = executed(data_dir, script)
    assert (run_answer[1], queue_answer[1]) == ("/run/a", "/queue/a")
    assert run_answer[0].startswith("127.0.0.1:")


def test_the_code_of_the_program_is_handed_on(data_dir):
    child = start(data_dir, sys.executable, "-c", "raise SystemExit(7)")
    child.communicate(timeout=60)
    assert child.returncode == 7


def test_the_program_that_a_signal_ends(data_dir):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    child = start(data_dir, sys.executable, "-c", script)
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGKILL


WAITING = """
import signal, sys
def stop(number, frame):
    print("told", number, flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("waiting", flush=True)
signal.pause()
"""


def test_sigterm_is_handed_on_and_the_program_may_tidy_up(data_dir):
    child = start(data_dir, sys.executable, "-c", WAITING)
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=60)[0] == f"told {signal.SIGTERM}\n"
    assert child.returncode == 5


def test_ctrl_c_reaches_the_program_once_and_it_decides(data_dir):
    child = start(data_dir, sys.executable, "-c", WAITING, start_new_session=True)
    assert child.stdout.readline() == "waiting\n"
    os.killpg(child.pid, signal.SIGINT)  # what a terminal does
    assert child.communicate(timeout=60)[0] == f"told {signal.SIGINT}\n"
    assert child.returncode == 5


def refused(capfd, *arguments):
    assert run(list(arguments)) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("Error: ")
    return err


def test_a_program_that_does_not_exist(data_dir, capfd):
    says = refused(capfd, "exec", "--data-dir", str(data_dir), "--", "no-such-program")
    assert "'no-such-program' cannot be run" in says


def test_no_data_folder_means_no_server(tmp_path, capfd):
    says = refused(capfd, "exec", "--data-dir", str(tmp_path / "none"), "--", "true")
    assert "glmimage serve" in says
    assert not (tmp_path / "none").exists()


def test_a_server_that_is_gone(tmp_path, data_dir, capfd):
    folder = tmp_path / "data"
    prepare_tls(load_settings(data_dir=folder))
    first_key_file(folder).parent.mkdir()
    first_key_file(folder).write_text(KEY)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    Serving(1, "", f"127.0.0.1:{port}", None, True).save(folder)
    says = refused(capfd, "exec", "--data-dir", str(folder), "--", "true")
    assert f"No server answers on 127.0.0.1, port {port}" in says
    first_key_file(folder).unlink()
    says = refused(capfd, "env", "--data-dir", str(folder))
    assert "The text of no key is kept" in says  # there may be one: only its hash is stored
    assert "glmimage keys create" in says


ASK_QUEUE = """
import fal_client.client as c, httpx, os, json
print(httpx.post(c.QUEUE_URL_FORMAT + "a", content=b"").text)
print(json.dumps(os.environ["FAL_KEY"]))
"""


def test_env_is_what_a_shell_evaluates(data_dir):
    command = [sys.executable, "-m", "glmimage", "env", "--data-dir", str(data_dir)]
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'eval "$({shlex.join(command)})" && exec {sys.executable} -c "$0"',
            ASK_QUEUE,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answer, key = map(json.loads, done.stdout.splitlines())
    assert (answer[1], key) == ("/queue/a", KEY)


def test_the_key_can_be_another(data_dir, monkeypatch, capfd):
    monkeypatch.setenv("GLMIMAGE_API_KEY", "other:key")
    assert run(["env", "--data-dir", str(data_dir)]) == 0
    assert "export FAL_KEY=other:key\n" in capfd.readouterr().out
