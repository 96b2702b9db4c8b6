"""A CONNECT proxy on loopback, for clients that have the hosted service's names built in.

Every name of the hosted service is answered by the given server; no such connection ever leaves
this machine. Other hosts are reached as they would be without us.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from ..fal_hosts import is_fal_host

HEAD_LIMIT_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0
DIAL_TIMEOUT_S = 30.0
CHUNK_BYTES = 64 * 1024

Address = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """Answer a client that cannot be connected; the text is for its user."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Upstream:
    """Hold the proxy that this machine needs for the outside, as the user has set it."""

    url: str

    async def dial(self, host: str, port: int) -> Streams:
        """Connect to `host` through the proxy."""
        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        if parts.scheme != "http" or not parts.hostname:
            raise Refused(
                "502 Bad Gateway", f"HTTPS_PROXY is {self.url!r}; only http:// proxies are used."
            )
        reader, writer = await _dial(parts.hostname, parts.port or 80)
        head = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            head += f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
        writer.write(f"{head}\r\n".encode())
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            answer = await reader.readuntil(b"\r\n\r\n")
        status = answer.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")[2]
        if not status.startswith("2"):
            writer.close()
            raise Refused(status or "502 Bad Gateway", f"The proxy of this machine said {status}.")
        return reader, writer


class ConnectProxy:
    """Run the proxy in a thread while the context is open; `port` is where it listens."""

    def __init__(self, server: Address, upstream: Upstream | None = None) -> None:
        self.server = server
        self.upstream = upstream
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="connect-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *unused: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        try:
            listener = await asyncio.start_server(
                self._accept, "127.0.0.1", 0, limit=HEAD_LIMIT_BYTES
            )
        except OSError as error:
            self._failure = error
            self._ready.set()
            return
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listener.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.CancelledError, OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client or we are leaving; nobody is there to be told
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            far, first, answer = await self._connect(head)
        except Refused as refusal:
            await _refuse(writer, refusal)
            return
        except asyncio.LimitOverrunError:
            await _refuse(writer, Refused("431 Request Header Fields Too Large", "Too long."))
            return
        far_reader, far_writer = far
        try:
            far_writer.write(first)
            writer.write(answer)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()

    async def _connect(self, head: bytes) -> tuple[Streams, bytes, bytes]:
        """Return the far end, what to send there first, and what to answer the client."""
        line, _, rest = head.decode("latin-1").partition("\r\n")
        method, _, target = line.partition(" ")
        target = target.rpartition(" ")[0]
        if method == "CONNECT":
            host, port = _split(f"//{target}", 443)
            far = await self._dial(host, port)
            return far, b"", b"HTTP/1.1 200 Connection established\r\n\r\n"
        host, port = _split(target, 80)
        if not target.lower().startswith("http://") or is_fal_host(host):
            raise Refused("403 Forbidden", f"{target} is not sent anywhere; use https.")
        path = target.split("://", 1)[1]
        path = path[path.find("/") :] if "/" in path else "/"
        # one request a connection: the next one may be for another host
        kept = [
            field
            for field in rest.split("\r\n")
            if field and not field.lower().startswith(("connection:", "proxy-"))
        ]
        lines = [f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]
        return await self._dial(host, port), "\r\n".join(lines).encode("latin-1"), b""

    async def _dial(self, host: str, port: int) -> Streams:
        if is_fal_host(host):
            return await _dial(*self.server)
        if self.upstream is not None:
            return await _failing_clearly(host, lambda: self.upstream.dial(host, port))  # type: ignore[union-attr]
        return await _dial(host, port)


def _split(target: str, default_port: int) -> Address:
    try:
        parts = urlsplit(target)
        port = parts.port or default_port
    except ValueError:
        raise Refused("400 Bad Request", f"{target} is not an address.") from None
    if not parts.hostname:
        raise Refused("400 Bad Request", f"{target} is not an address.")
    return parts.hostname, port


async def _dial(host: str, port: int) -> Streams:
    return await _failing_clearly(
        f"{host}:{port}", lambda: asyncio.open_connection(host, port, limit=HEAD_LIMIT_BYTES)
    )


async def _failing_clearly(name: str, dial: Callable[[], Awaitable[Streams]]) -> Streams:
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            return await dial()
    except TimeoutError:
        raise Refused("504 Gateway Timeout", f"{name} does not answer.") from None
    except (OSError, UnicodeError, asyncio.IncompleteReadError) as error:
        raise Refused("502 Bad Gateway", f"{name} cannot be reached: {error}.") from None


async def _refuse(writer: asyncio.StreamWriter, refusal: Refused) -> None:
    body = f"glmimage exec: {refusal}\n".encode()
    head = f"HTTP/1.1 {refusal.status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the sender is done, then say so to the receiver, which may still answer."""
    with suppress(ConnectionError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        if writer.can_write_eof():
            writer.write_eof()
