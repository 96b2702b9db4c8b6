"""Every marked block of docs/quickstart.md, run as it stands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = {
    name: (language, code)
    for name, language, code in re.findall(
        r"<!-- run: ([\w-]+) -->\n```(\w+)\n(.*?)```", PAGE, re.S
    )
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("photo", "style"):
        Image.effect_noise((96, 64), 60).convert("RGB").save(tmp_path / f"{name}.png")
    return tmp_path


def execute(name, folder, environment):
    """Run a block where a user would, with this environment's programs first; return its output."""
    language, code = BLOCKS[name]
    command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.environ['PATH'])}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def server(service):
    """Return the variables that the page has its reader set."""
    return {
        **service.environment,
        "SERVER": f"http://{service.serving.http}",
        "API_KEY": service.target.api_key,
    }


def test_every_block_is_run():
    tested = set(re.findall(r'execute\(\s*"([\w-]+)"', Path(__file__).read_text("utf-8")))
    assert tested == set(BLOCKS)


def test_library_command(folder, service):
    # the toy checkpoint stands in for nano: what is shown is the command
    assert "512x512  seed 7" in execute("library-command", folder, service.environment)
    with Image.open(folder / "poster.png") as picture:
        assert picture.size == (512, 512)


@pytest.mark.nano
def test_library_python(folder, service):
    assert "(7,)" in execute("library-python", folder, service.environment)
    with Image.open(folder / "open.png") as picture:
        assert picture.size == (512, 512)


def test_library_verify(folder, service):
    printed = execute("library-verify", folder, service.environment)
    assert "missing: OPEN" in printed  # the toy checkpoint paints noise
    assert [path.name for path in folder.glob("checked*")] == ["checked.png"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_server_by_curl(folder, server):
    painted = json.loads(execute("server-curl", folder, server))
    assert painted["size"] == "512x512"
    edited = json.loads(execute("server-edit", folder, server))
    assert edited["usage"]["input_tokens_details"]["image_tokens"] > 0
    by_url = json.loads(execute("server-zai", folder, server))
    assert by_url["data"][0]["url"].startswith(server["SERVER"])


def test_server_by_the_python_client(folder, server):
    assert "output_tokens=512" in execute("server-python", folder, server)
    with Image.open(folder / "sign.png") as picture:
        assert picture.size == (512, 512)


def test_from_fal(folder, service):
    assert execute("fal-exec", folder, service.environment).startswith("http")
