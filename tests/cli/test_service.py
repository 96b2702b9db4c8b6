"""`glmimage serve` as a process: what it prints, leaves and refuses, and how it ends."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from glmimage.server.serving import find_serving, first_key_file

PASTE = ["  glmimage exec -- python poster.py", '  eval "$(glmimage env)"']

# a background job of a script ignores SIGINT, and so does what it starts: the tests may be one
LIKE_A_SHELL = """
import os, signal, sys
ignored = [int(number) for number in sys.argv[1].split(",") if number]
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""
SERVE = [sys.executable, "-m", "glmimage", "serve", "--http-port", "0", "--https-port", "0"]


class Server:
    """Run `glmimage serve` without a worker; `ignored` are the signals its shell has it ignore."""

    def __init__(self, data_dir, *options, ignored=(), **variables):
        shell = [sys.executable, "-c", LIKE_A_SHELL, ",".join(str(int(n)) for n in ignored)]
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*shell, *SERVE, "--data-dir", str(data_dir), "--workers", "0", *options],
            env=clean_environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = []
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))
            if line.rstrip("\n") == PASTE[-1]:
                break
        else:
            pytest.fail(self.process.stderr.read())
        self.serving = find_serving(data_dir)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def clean_environment(**variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")}
    return kept | variables


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(*options, **settings):
        started.append(Server(tmp_path / "data", *options, **settings))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def get(url, key=None, **options):
    request = urllib.request.Request(url, headers={"Authorization": f"Key {key}"} if key else {})
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(**options)
    )
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_first_start_says_all_that_is_needed(serve, tmp_path):
    server = serve()
    key_file = first_key_file(server.data_dir)
    key = key_file.read_text().strip()
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert server.printed[1:3] == [
        f"  http   http://{server.serving.http}",
        f"  https  https://{server.serving.https}",
    ]
    assert key in server.printed[4]
    assert server.printed[-2:] == PASTE
    requests = "/fal-ai/glm-image/requests/none/status"
    context = ssl.create_default_context(cafile=server.serving.ca)
    for origin in (f"http://{server.serving.http}", f"https://{server.serving.https}"):
        assert get(f"{origin}/health/live", context=context)[0] == 200
        assert get(f"{origin}/queue{requests}", context=context)[0] == 401
        assert get(f"{origin}/queue{requests}", key, context=context)[0] == 404
    status, body = get(f"http://{server.serving.http}/health/ready")
    assert status == 503
    assert "glmimage worker" in body["reason"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(serve, number):
    server = serve()
    host, _, port = server.serving.http.partition(":")
    code, out, err = server.stop(number)
    assert (code, out, err) == (0, "Stopping.\n", "")
    assert find_serving(server.data_dir) is None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)


def test_a_signal_that_the_shell_has_it_ignore_is_ignored(serve):
    """So that Ctrl-C of a foreground program does not end a server started with & or nohup."""
    ignored = (signal.SIGINT, signal.SIGHUP)
    server = serve(ignored=ignored)
    for number in ignored:
        server.process.send_signal(number)
    assert get(f"http://{server.serving.http}/health/live")[0] == 200
    assert server.stop(signal.SIGTERM)[:2] == (0, "Stopping.\n")


def test_the_second_start_keeps_key_and_certificate(serve):
    first = serve()
    ca = Path(first.serving.ca).read_bytes()
    key = first_key_file(first.data_dir).read_text()
    first.stop()
    second = serve()
    assert Path(second.serving.ca).read_bytes() == ca
    assert first_key_file(first.data_dir).read_text() == key
    assert key.strip() not in "\n".join(second.printed)


def test_without_keys_on_loopback(serve):
    server = serve("--no-auth")
    assert "none is asked for" in server.printed[4]
    url = f"http://{server.serving.http}/queue/fal-ai/glm-image/requests/none/status"
    assert get(url)[0] == 404
    assert not first_key_file(server.data_dir).exists()


def refused(tmp_path, *options, command="serve", **variables):
    done = subprocess.run(
        [sys.executable, "-m", "glmimage", command, "--data-dir", str(tmp_path / "data"), *options],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_is_taken_is_named(tmp_path, scheme):
    other = "https" if scheme == "http" else "http"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        says = refused(tmp_path, f"--{scheme}-port", str(port), f"--{other}-port", "0")
    assert f"Port {port} on 127.0.0.1 is in use" in says
    assert f"--{scheme}-port" in says


@pytest.mark.parametrize(
    ("options", "variables", "says"),
    [
        (["--no-auth", "--host", "0.0.0.0"], {}, "loopback only, not on '0.0.0.0'"),
        (["--host", "no.such.host.invalid"], {}, "there is no such address"),
        (["--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
        (["--workers", "-1"], {}, "--workers is -1"),
        (["--http-port", "70000"], {}, "--http-port is 70000"),
        ([], {"GLMIMAGE_TLS_CERT": "/none.pem"}, "GLMIMAGE_TLS_CERT is '/none.pem'"),
        ([], {"GLMIMAGE_DATABASE_URL": "mysql://a/b"}, "mysql"),
        ([], {"GLMIMAGE_PORT": "80"}, "There is no setting GLMIMAGE_PORT"),
        ([], {"GLMIMAGE_FILES_URL": "ftp://a/b"}, "ftp://a/b"),
        ([], {"GLMIMAGE_TERMS_FILE": "/none.txt"}, "/none.txt"),
        ([], {"GLMIMAGE_LORA_DIR": "/none"}, "LORA_DIR is '/none'; there is no such folder"),
        (["--lora-dir", "/none"], {}, "Make it, name another with GLMIMAGE_LORA_DIR or --lora-dir"),
    ],
)
def test_what_is_set_up_wrongly_does_not_start(tmp_path, options, variables, says):
    ports = [] if "--http-port" in options else ["--http-port", "0"]
    assert says in refused(tmp_path, *ports, "--https-port", "0", *options, **variables)


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "data").write_text("a file")
    says = refused(tmp_path, "--http-port", "0", "--https-port", "0")
    assert "cannot be used: " in says
    assert "GLMIMAGE_DATA_DIR" in says


def test_a_worker_without_its_folder_of_adapters_does_not_start(tmp_path):
    says = refused(tmp_path, "--lora-dir", str(tmp_path / "none"), command="worker")
    assert f"'{tmp_path / 'none'}'; there is no such folder" in says
    assert not (tmp_path / "data").exists()
