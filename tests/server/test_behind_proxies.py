"""The snippets of docs/operations.md, as they stand, under the programs they are for."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from glmimage.config import Settings
from glmimage.server.tls import prepare_tls

APP = "fal-ai/glm-image"
BODY = {"prompt": "a square", "image_size": "square"}
PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def snippet(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return found


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


def nginx(folder, port, server, files):
    site = replaced(
        snippet("nginx"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/pictures.pem", str(files.cert)),
        ("/etc/ssl/pictures.key", str(files.key)),
        ("http://127.0.0.1:8000", server),
    )
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/errors;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    return ["nginx", "-p", str(folder), "-e", str(folder / "errors"), "-c", str(config)]


def caddy(folder, port, server, files):
    site = replaced(
        snippet("caddyfile"),
        (
            "pictures.example.org {\n",
            f"https://localhost:{port} {{\nbind 127.0.0.1\ntls {files.cert} {files.key}\n",
        ),
        ("127.0.0.1:8000", server.removeprefix("http://")),
    )
    config = folder / "Caddyfile"
    config.write_text(f"{{\nadmin off\nauto_https disable_redirects\n}}\n{site}")
    return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]


@contextmanager
def running(write, folder, port, server, files):
    """Run nginx or caddy until it listens."""
    folder.mkdir()
    command = write(folder, port, server, files)
    home = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=home, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def skip_without(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def front(request, serve, tmp_path):
    """Run the server behind a proxy; return it and a client of the proxy that has the key."""
    skip_without(request.param.__name__)
    port = free_port()
    server = serve(public_url=f"https://localhost:{port}")
    files = prepare_tls(Settings(data_dir=tmp_path / "tls"))
    context = ssl.create_default_context(cafile=files.ca)
    with (
        running(request.param, tmp_path / "proxy", port, server.url, files),
        httpx.Client(
            base_url=f"https://localhost:{port}",
            headers={"authorization": f"Key {server.key}"},
            verify=context,
            trust_env=False,
            timeout=20,
        ) as client,
    ):
        client.context = context
        yield server, client


def test_every_surface_through_a_proxy(front):
    server, client = front
    public = str(client.base_url).rstrip("/")
    submitted = client.post(f"/queue/{APP}", json=BODY).json()
    assert submitted["status_url"].startswith(f"{public}/queue/")
    with client.stream("GET", f"{submitted['status_url']}/stream") as events:
        statuses = [json.loads(line[6:]) for line in events.iter_lines() if line[:5] == "data:"]
    assert statuses[-1]["status"] == "COMPLETED"
    image = client.get(submitted["response_url"]).json()["images"][0]
    assert image["url"].startswith(f"{public}/cdn/files/")
    assert len(client.get(image["url"]).content) == image["file_size"]
    large = bytes(3 * 1024 * 1024)
    upload = client.post("/cdn/files/upload", content=large)
    assert len(client.get(upload.json()["access_url"]).content) == len(large)
    address = public.replace("https", "wss") + f"/run/{APP}/realtime"
    key = {"authorization": f"Key {server.key}"}
    with connect(address, ssl=client.context, additional_headers=key, proxy=None) as realtime:
        realtime.send(json.dumps(BODY))
        assert realtime.recv(20)


def test_events_are_not_held_back_and_who_hangs_up_cancels(front):
    server, client = front
    server.tell(server.worker.go.clear)
    body = {**BODY, "prompt": "slow"}
    with client.stream("POST", f"/run/{APP}/stream", json=body) as response:
        lines = response.iter_lines()
        server.until(lambda: "IN_PROGRESS" in next(lines))  # while the work still goes on
        request_id = response.headers["x-fal-request-id"]
    job = server.until(lambda: ended(server, request_id))
    assert job.state == "cancelled"


SUBSCRIBE = """
import fal_client
body = {"prompt": "a square", "image_size": "square", "seed": 5}
print(fal_client.subscribe("fal-ai/glm-image", body)["seed"])
"""


def test_who_finds_nobody_behind_nginx_asks_again(request, tmp_path):
    """The unmodified client meets nginx's own 502 page until the server is back."""
    skip_without("nginx")
    start = type(request.getfixturevalue("server"))
    port = free_port()
    options = {"http_port": free_port(), "public_url": f"https://localhost:{port}"}
    folder = tmp_path / "server"
    folder.mkdir()
    with start(folder, **options) as server:
        key = server.key
    files = prepare_tls(Settings(data_dir=tmp_path / "tls"))
    proxy = tmp_path / "proxy"
    with running(nginx, proxy, port, server.url, files):
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "FAL_KEY": key,
            "FAL_RUN_HOST": f"localhost:{port}/run",
            "FAL_QUEUE_RUN_HOST": f"localhost:{port}/queue",
            "SSL_CERT_FILE": str(files.ca),
        }
        client = subprocess.Popen(
            [sys.executable, "-c", SUBSCRIBE], env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            server.until(lambda: "Connection refused" in (proxy / "errors").read_text())
            assert client.poll() is None
            with start(folder, **options):
                printed, _ = client.communicate(timeout=60)
        finally:
            client.kill()
        assert (client.returncode, printed) == (0, "5\n")


def ended(server, request_id):
    job = server.call(server.store.get(request_id))
    return job if job.ended else None


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "glmimage.service"
    unit.write_text(
        replaced(
            snippet("ini"),
            ("/opt/glmimage/bin/glmimage", shutil.which("true")),
            ("User=glmimage", "User=root"),
        )
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
