"""Every block of docs/quickstart.md, run as it stands."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import mcp
import pytest
from mcp.client.stdio import StdioServerParameters, stdio_client
from PIL import Image

import glmimage
from glmimage.config import Settings

from .npm_registry import NpmRegistry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = {
    name: (language, code)
    for name, language, code in re.findall(
        r"<!-- run: ([\w-]+) -->\n```(\w+)\n(.*?)```", PAGE, re.S
    )
}

ONE_PICTURE = """
import fal_client
asked = {"prompt": "A sign", "image_size": "square", "num_inference_steps": 10}
print(fal_client.run("fal-ai/glm-image", arguments=asked)["images"][0]["url"], end="")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("photo", "style"):
        Image.effect_noise((96, 64), 60).convert("RGB").save(tmp_path / f"{name}.png")
    return tmp_path


def with_programs(environment, folder=Path(sys.executable).parent):
    """Return the environment with the programs of a folder first; pip finds all it needs here."""
    path = f"{folder}{os.pathsep}{environment.get('PATH', os.environ['PATH'])}"
    return {**environment, "PATH": path, "PIP_NO_INDEX": "1"}


def execute(name, folder, environment, after="", **filled):
    """Run a block where a user would; return its output.

    after: more for the same shell. filled: what stands in the place of `...` or of a made-up name.
    """
    language, code = BLOCKS[name]
    for old, new in filled.items():
        assert old in code
        code = code.replace(old, new)
    command = ["bash", "-euc", code + after] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment if "PIP_NO_INDEX" in environment else with_programs(environment),
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
    tested = re.findall(r'(?:execute\(|BLOCKS\[)\s*"([\w-]+)"', Path(__file__).read_text("utf-8"))
    assert set(tested) == set(BLOCKS)
    assert len(BLOCKS) == PAGE.count("```") / 2


def test_library_install(tmp_path):
    """Into an environment of its own; what is installed here already is not downloaded again."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    pytest.importorskip("editables", reason="editables is not installed: pip install -e '.[dev]'")
    command = [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"]
    subprocess.run(command, check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("GLMIMAGE_", "PIP_"))}
    programs = tmp_path / "venv" / "bin"
    (programs / "pip").write_text(f'#!/bin/sh\nexec {programs}/python -m pip "$@"\n')
    (programs / "pip").chmod(0o755)
    environment = with_programs(plain, programs)
    environment["PIP_NO_BUILD_ISOLATION"] = "0"  # pip's own odd way to say that it is not wanted
    printed = execute("library-install", ROOT, environment, "glmimage --version\nwhich glmimage")
    version, program = printed.splitlines()[-2:]
    assert version.endswith(glmimage.__version__)
    assert program == str(programs / "glmimage")


def test_library_command(folder, service):
    # the toy checkpoint stands in for nano: what is shown is the command
    assert "512x512  seed 8" in execute("library-command", folder, service.environment)
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


def test_server_start_and_variables(tmp_path):
    """In a new home, on any ports and without a worker, since others may run one here."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("GLMIMAGE_", "XDG_"))}
    home = {**plain, "HOME": str(tmp_path)}
    anywhere = {"GLMIMAGE_HTTP_PORT": "0", "GLMIMAGE_HTTPS_PORT": "0", "GLMIMAGE_WORKERS": "0"}
    process = subprocess.Popen(
        ["bash", "-euc", BLOCKS["server-start"][1].replace("glmimage", "exec glmimage", 1)],
        env=with_programs(home | anywhere),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        printed = ""
        while "page" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        printf = "printf '%s %s' $SERVER $API_KEY"
        server, key = execute("server-variables", tmp_path, home, printf).split()
        assert key in printed
        http = re.search(r"http://127.0.0.1:\d+", printed)[0]
        assert server == f"http://127.0.0.1:{Settings().http_port}"
        answer = httpx.get(f"{http}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.json()["data"][0]["id"] == "glm-image"
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_server_by_curl(folder, server):
    painted = json.loads(execute("server-curl", folder, server))
    assert painted["size"] == "512x512"
    edited = json.loads(execute("server-edit", folder, server))
    assert edited["usage"]["input_tokens_details"]["image_tokens"] > 0
    by_url = json.loads(execute("server-zai", folder, server))
    assert by_url["data"][0]["url"].startswith(server["SERVER"])


def test_server_by_the_python_client(folder, server):
    execute("server-openai", folder, server)
    assert "output_tokens=512" in execute("server-python", folder, server)
    with Image.open(folder / "sign.png") as picture:
        assert picture.size == (512, 512)


def test_from_fal(folder, service):
    assert execute("fal-exec", folder, service.environment).splitlines()[-1].startswith("http")


def test_from_fal_in_javascript(tmp_path, service, node_modules):
    """Where the client is not installed yet; npm finds it on this machine."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with NpmRegistry(node_modules) as registry:
        printed = execute(
            "fal-javascript",
            tmp_path,
            {**with_programs(service.environment), **registry.variables(tmp_path / "npm")},
        )
    assert "added" in printed
    assert printed.splitlines()[-1].startswith("http")


def test_from_fal_by_variables(folder, service):
    url = execute(
        "fal-variables",
        folder,
        {**service.environment, "SSL_CERT_FILE": str(service.target.bundle)},
        f"python -c '{ONE_PICTURE}'",
        **{"...": service.target.api_key, "pictures.example.org": service.target.address},
    )
    assert url.startswith(f"https://{service.target.address}/")


def test_assistants(folder, service):
    """Start what an assistant's configuration names, as an assistant does."""
    execute("mcp-install", folder, service.environment)
    (named,) = json.loads(BLOCKS["mcp-json"][1])["mcpServers"].values()
    program = shutil.which(named["command"], path=with_programs(service.environment)["PATH"])
    parameters = StdioServerParameters(
        command=program, args=named["args"], env=service.environment, cwd=folder
    )

    async def ask():
        async with mcp.Client(stdio_client(parameters)) as client:
            return json.loads((await client.call_tool("status")).content[0].text)

    assert service.serving.http in asyncio.run(ask())["painted_by"]
