"""Who lets go of a tool call, or leaves, has nothing painted: a job of the server is cancelled."""

import asyncio
import contextlib
import time

import httpx
import mcp
import pytest
from mcp.client.stdio import stdio_client

from .test_mcp import ASKED, over_http, parameters

SLOW = {**ASKED, "num_inference_steps": 100, "num_images": 4}
WITHIN_S = 120.0


@pytest.fixture(scope="module")
def streamable_http(service):
    """Return the address of `glmimage mcp --http`."""
    service.environment["GLMIMAGE_API_KEY"] = service.target.api_key
    try:
        with over_http(service, "--server", service.url) as url:
            yield url
    finally:
        del service.environment["GLMIMAGE_API_KEY"]


@pytest.fixture(params=["stdio", "http"])
def transport(request, service):
    if request.param == "stdio":
        return stdio_client(parameters(service))
    return request.getfixturevalue("streamable_http")


async def painting(client, prompt):
    """Call the tool; return the call as soon as its picture is painted."""
    begun = asyncio.Event()

    async def progress(done, total, message):
        if "step" in message:
            begun.set()

    asked = client.call_tool("generate", {**SLOW, "prompt": prompt}, progress_callback=progress)
    call = asyncio.create_task(asked)
    await asyncio.wait_for(begun.wait(), WITHIN_S)
    return call


def status_of(service, prompt):
    """Wait until the request with this prompt has ended; return its status code."""
    key = {"authorization": f"Key {service.target.api_key}"}
    address = f"{service.url}/platform/v1/models/requests/search?limit=5&expand=payloads"
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        for row in httpx.get(address, headers=key).raise_for_status().json()["results"]:
            if row["json_input"]["prompt"] == prompt:
                return row["status_code"]
        time.sleep(0.1)
    raise AssertionError("the request has not ended")


def test_a_call_that_is_cancelled(service, transport, request):
    prompt = f"Cancelled, {request.node.name}"

    async def run():
        async with mcp.Client(transport) as client:
            call = await painting(client, prompt)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            # while the client is still there
            assert await asyncio.to_thread(status_of, service, prompt) == 499
            assert not (await client.call_tool("status")).is_error

    asyncio.run(run())


def test_a_client_that_leaves(service, transport, request):
    prompt = f"Left, {request.node.name}"

    async def run():
        async with mcp.Client(transport) as client:
            call = await painting(client, prompt)
        with contextlib.suppress(Exception):
            await call

    asyncio.run(run())
    assert status_of(service, prompt) == 499
