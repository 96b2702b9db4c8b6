"""A small internet: names, addresses and pages, all on one port of this machine."""

import asyncio
import contextlib

import pytest
from httpcore2 import AnyIOBackend, AsyncNetworkBackend

from glmimage.policy import AddressGuard, FetchLimits, fetch_public, post_public

PUBLIC = "93.184.215.14"
OTHER = "198.41.0.4"


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Internet(AsyncNetworkBackend):
    """Resolve from `names`, note every connection in `dialled`, and answer from `pages`.

    names: name -> answers; each look-up takes the next, the last stays. pages: path -> bytes sent
    as they are, or an async function of the writer. requests: what came in, as text.
    """

    def __init__(self):
        self.names = {"example.com": [[PUBLIC]]}
        self.pages = {}
        self.dialled = []
        self.requests = []
        self.closed = asyncio.Event()
        self.port = 0

    async def resolve(self, host, port):
        if host not in self.names:
            raise OSError("no such host")
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.dialled.append((host, port))
        return await AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)

    async def answer(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = [line for line in head.lower().split("\r\n") if "content-length:" in line]
            body = await reader.readexactly(int(length[0].split(":")[1])) if length else b""
            self.requests.append(head + body.decode("latin-1"))
            page = self.pages[head.split(" ")[1]]
            if callable(page):
                await page(writer)
            else:
                writer.write(page)
                await writer.drain()
        self.closed.set()
        writer.close()

    def guard(self, *allowed):
        return AddressGuard(allowed, resolve=self.resolve)

    async def fetch(self, url, *allowed, **limits):
        options = {"total_s": 5.0, **limits}
        return await fetch_public(url, FetchLimits(**options), self.guard(*allowed), backend=self)

    async def post(self, url, content, *allowed, headers=None, **limits):
        options = {"total_s": 5.0, **limits}
        return await post_public(
            url, content, headers or {}, FetchLimits(**options), self.guard(*allowed), backend=self
        )


def page(body=b"", status="200 OK", **headers):
    """Write a response as bytes; headers in Python's spelling."""
    named = {"content-length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items() if value is not None
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture
async def internet():
    net = Internet()
    server = await asyncio.start_server(net.answer, "127.0.0.1", 0)
    net.port = server.sockets[0].getsockname()[1]
    yield net
    server.close()
