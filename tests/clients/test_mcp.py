"""Sessions of the SDK's client with `glmimage mcp`, over both transports."""

import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys

import mcp
import pytest
from mcp.client.stdio import StdioServerParameters, stdio_client
from PIL import Image

MCP = [sys.executable, "-m", "glmimage", "mcp"]
ASKED = {"prompt": "A sign 'OPEN'", "size": "512x512", "num_inference_steps": 10}


async def converse(transport, painted_by, seed):
    """Use every tool once. seed: another each time, for equal requests are not painted again."""
    asked = {**ASKED, "seed": seed}
    async with mcp.Client(transport) as client:
        names = sorted(tool.name for tool in (await client.list_tools()).tools)
        assert names == ["edit", "generate", "list", "status"]
        condition = json.loads((await client.call_tool("status")).content[0].text)
        assert painted_by in condition["painted_by"]
        seen = []

        async def progress(done, total, message):
            seen.append(done)

        result = await client.call_tool("generate", asked, progress_callback=progress)
        assert not result.is_error, result.content
        picture, facts = result.content
        assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == (512, 512)
        facts = json.loads(facts.text)
        assert (facts["state"], facts["seed"]) == ("done", seed)
        assert seen == sorted(seen)
        assert seen[-1] > 50
        again = await client.call_tool("status", {"request_id": facts["request_id"]})
        assert again.content[0].data == picture.data
        listed = json.loads((await client.call_tool("list")).content[0].text)["requests"]
        assert listed[0]["request_id"] == facts["request_id"]
        edited = await client.call_tool(
            "edit", {**asked, "prompt": "Paint it", "images": [facts["request_id"]]}
        )
        assert not edited.is_error, edited.content
        assert edited.content[0].type == "image"
        refused = await client.call_tool("generate", {**asked, "prompt": " "})
        assert refused.is_error


def parameters(service, *options):
    environment = {**os.environ, **service.environment}
    return StdioServerParameters(
        command=MCP[0], args=[*MCP[1:], *options], env=environment, cwd=os.getcwd()
    )


def test_stdio_with_the_running_service(service):
    transport = stdio_client(parameters(service))
    asyncio.run(converse(transport, painted_by=f"server at http://{service.serving.http}", seed=7))


def test_what_was_just_asked_for_is_listed(service):
    """By the server, which itself lists ended requests only, as in this process."""

    async def run():
        async with mcp.Client(stdio_client(parameters(service))) as client:

            async def listed():
                result = await client.call_tool("list", {"limit": 5})
                return json.loads(result.content[0].text)["requests"]

            with service.paused():
                taken = await client.call_tool("generate", {**ASKED, "seed": 21, "wait": False})
                asked = json.loads(taken.content[0].text)
                rows = await listed()
                assert rows[0] == {**asked, "prompt": ASKED["prompt"]}
                assert {row["state"] for row in rows[1:]} <= {"done", "failed", "cancelled"}
            while (rows := await listed())[0]["state"] in ("waiting", "working"):
                await asyncio.sleep(0.1)
            assert rows[0] == {**asked, "prompt": ASKED["prompt"], "state": "done"}
            assert [row["request_id"] for row in rows].count(asked["request_id"]) == 1

    asyncio.run(run())


def test_a_server_with_a_ca_of_its_own(service):
    """It is trusted when SSL_CERT_FILE names the CA, and not without."""

    async def state_of(**environment):
        transport = parameters(service, "--server", f"https://{service.serving.https}")
        transport.env |= {"GLMIMAGE_API_KEY": service.target.api_key, **environment}
        async with mcp.Client(stdio_client(transport)) as client:
            return await client.call_tool("generate", {**ASKED, "seed": 22})

    result = asyncio.run(state_of(SSL_CERT_FILE=service.serving.ca))
    assert not result.is_error, result.content
    assert result.content[0].type == "image"
    result = asyncio.run(state_of(SSL_CERT_FILE=""))
    assert result.is_error
    assert "CERTIFICATE_VERIFY_FAILED" in result.content[0].text


def test_stdio_in_process(service, tiny_dir):
    transport = stdio_client(parameters(service, "--in-process"))
    asyncio.run(converse(transport, painted_by=f"{tiny_dir}, in this process", seed=7))


@contextlib.contextmanager
def over_http(service, *options):
    process = subprocess.Popen(
        [*MCP, "--http", "--port", "0", *options],
        env=service.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().removeprefix("glmimage mcp: ").strip()
    finally:
        process.terminate()
        assert process.wait(60) is not None
        process.stdout.close()


def test_streamable_http(service):
    server = f"http://{service.serving.http}"
    service.environment["GLMIMAGE_API_KEY"] = service.target.api_key
    try:
        with over_http(service, "--server", server) as url:
            assert url.endswith("/mcp")
            asyncio.run(converse(url, f"server at {server}", seed=8))
    finally:
        del service.environment["GLMIMAGE_API_KEY"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--http", "--host", "0.0.0.0"], "it must be a loopback address"),
        (["--server", "nowhere"], "it must begin with http:// or https://"),
        (["--server", "http://x", "--in-process"], "either --server or --in-process"),
    ],
)
def test_what_cannot_be(options, sentence, capsys):
    from glmimage.cli import run

    assert run(["mcp", *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "nothing"])
def test_certificates_that_cannot_be_read_are_told(content, tmp_path, monkeypatch, capsys):
    from glmimage.cli import run

    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert run(["mcp", "--server", "https://127.0.0.1:9"]) == 2
    assert f"SSL_CERT_FILE is '{path}'; it cannot be read" in capsys.readouterr().err


def test_a_server_that_is_gone_is_told_to_the_assistant(service):
    async def run():
        parameters_ = parameters(service, "--server", "http://127.0.0.1:9")
        async with mcp.Client(stdio_client(parameters_)) as client:
            return await client.call_tool("generate", ASKED)

    result = asyncio.run(run())
    assert result.is_error
    assert "http://127.0.0.1:9 does not answer" in result.content[0].text
