"""Every example, as it stands, under `glmimage exec`."""

import io
import re
import shutil
import socket
import ssl
import subprocess
import sys

import httpx
import pytest
from PIL import Image

EXAMPLES = ("cache edit poster redis_producer retry save several stream webhook_receiver").split()
URL = re.compile(r"https?://\S+")


def run(service, name, *arguments, **options):
    return service.execute(sys.executable, f"examples/{name}.py", *arguments, **options)


def picture_at(service, url):
    content = (
        httpx.get(url, verify=ssl.create_default_context(cafile=service.serving.ca))
        .raise_for_status()
        .content
    )
    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGB")


def test_no_example_is_left_out(service):
    from pathlib import Path

    folder = Path(__file__).parents[2] / "examples"
    assert sorted(path.stem for path in folder.glob("*.py")) == EXAMPLES
    assert sorted(path.stem for path in folder.glob("*.mjs")) == ["edit", "poster"]
    for path in folder.glob("*.*"):
        if path.suffix in (".py", ".mjs"):
            assert "glmimage" not in path.read_text()


def test_poster(service):
    (url,) = URL.findall(run(service, "poster"))
    assert picture_at(service, url).size == (1024, 576)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((128, 96), 60).convert("RGB").save(path)
    return path


def test_edit(service, photo):
    (url,) = URL.findall(run(service, "edit", photo, photo))
    assert picture_at(service, url).size == (512, 512)


@pytest.mark.parametrize(
    ("name", "arguments", "size"), [("poster", [], (1024, 576)), ("edit", ["photo"], (512, 512))]
)
def test_javascript(service, node_modules, tmp_path, photo, name, arguments, size):
    # where a user's project would be: the script beside its node_modules
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = tmp_path / f"{name}.mjs"
    shutil.copy(f"examples/{name}.mjs", script)
    (url,) = URL.findall(service.execute("node", script, *([photo] if arguments else [])))
    assert picture_at(service, url).size == size


def test_several(service):
    printed = run(service, "several")
    assert printed.count("512x512") == 3
    assert "step 10/10" in printed
    assert printed.endswith("seed 42\n")
    lines = printed.splitlines()
    assert len(lines) == len(set(lines))


def test_stream(service):
    lines = run(service, "stream").splitlines()
    assert len(lines) > 3
    assert "'images'" in lines[-1]


def test_retry_tells_the_failures_apart(service):
    assert URL.search(run(service, "retry"))
    invalid = run(service, "retry", "A sign", "5")
    assert invalid.startswith("fix the request: body.num_inference_steps: ")
    refused = run(service, "retry", "A photo of naked children", "10")
    assert refused.startswith("choose another prompt: ")


def test_save(service, tmp_path):
    files = run(service, "save", tmp_path).splitlines()
    assert len(files) == 2
    for file in files:
        with Image.open(file) as picture:
            assert (picture.format, picture.size) == ("PNG", (768, 512))


def test_cache(service, tmp_path):
    first, second = run(service, "cache", tmp_path / "pictures").splitlines()
    assert first.split()[0] == "painted"
    assert second.split()[0] == "found"
    assert first.split()[1] == second.split()[1]
    with Image.open(first.split()[1]) as picture:
        assert picture.size == (512, 512)


def test_webhook_receiver(service):
    submitted, received = run(service, "webhook_receiver", "0").splitlines()
    assert submitted.startswith("submitted ")
    assert picture_at(service, received.removeprefix("received ")).size == (512, 512)


@pytest.fixture
def redis_url(tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()
    server.stdout.close()


def test_redis_producer(service, redis_url):
    environment = {**service.environment, "REDIS_URL": redis_url}
    prompts = [f"A sign that says '{word}'" for word in ("ONE", "TWO")]
    assert run(service, "redis_producer", "add", *prompts, env=environment) == "2 waiting\n"
    printed = run(service, "redis_producer", "work", env=environment)
    for prompt, line in zip(prompts, printed.splitlines(), strict=True):
        assert line.startswith(f"{prompt} -> http")
    assert run(service, "redis_producer", "work", env=environment) == ""
