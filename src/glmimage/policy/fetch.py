"""Fetch from, and post to, addresses that somebody else wrote, within limits.

The connection goes to the very address that was checked: the name is resolved once, by the
network backend below, so an answer that changes between check and connect changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import httpcore2
from httpcore2 import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from .address import AddressGuard, PublicUrl, follow_location, parse_public_url
from .errors import FetchFailed, FileTooLarge

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "glmimage"
_UNPACK_BYTES = 64 * 1024


@dataclass(frozen=True)
class FetchLimits:
    """Bound one fetch, redirects included. Sizes in bytes after decompression, times in seconds."""

    max_bytes: int = 50 * 1024 * 1024
    total_s: float = 30.0
    connect_s: float = 10.0
    idle_s: float = 10.0
    max_redirects: int = 5


@dataclass(frozen=True)
class Fetched:
    """Hold what came back. content_type: as the sender names it, lower case, without parameters."""

    content: bytes
    content_type: str


async def fetch_public(
    url: str,
    limits: FetchLimits | None = None,
    guard: AddressGuard | None = None,
    *,
    backend: AsyncNetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Fetched:
    """Return what an http(s) URL or a data URI holds.

    Raise AddressRefused, FetchFailed or FileTooLarge. Every redirect is checked like the first URL.
    """
    limits = limits or FetchLimits()
    if url[:5].lower() == "data:":
        return read_data_uri(url, limits.max_bytes)
    client = _Client(limits, guard or AddressGuard(), backend, ssl_context)
    shown = url if len(url) <= 80 else url[:77] + "..."
    async with _in_time(limits.total_s, shown):
        here = parse_public_url(url)
        for _ in range(limits.max_redirects + 1):
            async with client.send("GET", here) as response:
                if response.status not in _REDIRECTS:
                    return await _read_file(response, limits, shown)
                # servers write other letters as they are, in UTF-8
                raw = _header(response, b"location").encode("latin-1")
                location = raw.decode("utf-8", "replace")
            if not location:
                raise FetchFailed(f"{shown!r} redirects to nowhere.")
            here = follow_location(here, location)
    raise FetchFailed(
        f"{shown!r} redirects more than {limits.max_redirects} times.",
        hint="Give the final URL.",
    )


async def post_public(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    limits: FetchLimits | None = None,
    guard: AddressGuard | None = None,
    *,
    backend: AsyncNetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> int:
    """Post bytes and return the status; a redirect is returned, not followed.

    Raise AddressRefused or FetchFailed. The reply's body is not read.
    """
    limits = limits or FetchLimits()
    client = _Client(limits, guard or AddressGuard(), backend, ssl_context)
    async with (
        _in_time(limits.total_s, url),
        client.send("POST", parse_public_url(url), headers, content) as response,
    ):
        return response.status


def read_data_uri(uri: str, max_bytes: int) -> Fetched:
    """Decode a data URI (RFC 2397); raise FetchFailed when malformed, FileTooLarge."""
    head, comma, data = uri[5:].partition(",")
    if not comma or len(head) > 256:
        raise FetchFailed(
            "A data URI has no comma between its type and its data.",
            hint="Write data:image/png;base64,...",
        )
    media_type, *parameters = [part.strip().lower() for part in head.split(";")]
    is_base64 = bool(parameters) and parameters[-1] == "base64"
    # each character is at most one byte, and four of base64 are three
    if len(data) * (3 if is_base64 else 1) // (4 if is_base64 else 1) > 3 * max_bytes:
        raise too_large(max_bytes, "A data URI")
    content = unquote_to_bytes(data) if "%" in data or not is_base64 else data.encode()
    if is_base64:
        try:
            packed = b"".join(content.split())
            content = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise FetchFailed(
                "A data URI does not hold valid base64.", hint="Encode the file's bytes anew."
            ) from None
    if len(content) > max_bytes:
        raise too_large(max_bytes, "A data URI")
    if not content:
        raise FetchFailed("A data URI is empty.", hint="Encode the file's bytes anew.")
    return Fetched(content, media_type or "text/plain")


def too_large(max_bytes: int, what: str) -> FileTooLarge:
    """Return the error for `what` being over the limit."""
    return FileTooLarge(
        f"{what} holds more than {max_bytes} bytes.",
        hint="Send a smaller file.",
        context={"max_size": max_bytes},
    )


class _Client:
    def __init__(
        self,
        limits: FetchLimits,
        guard: AddressGuard,
        backend: AsyncNetworkBackend | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._backend = _PinnedBackend(guard, backend or AnyIOBackend())
        self._ssl_context = ssl_context
        self._timeouts = {
            "connect": limits.connect_s,
            "read": limits.idle_s,
            "write": limits.idle_s,
            "pool": limits.connect_s,
        }

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: PublicUrl,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> AsyncIterator[httpcore2.Response]:
        sent = {
            "Host": url.host_header,
            "User-Agent": _USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **(headers or {}),
        }
        if method == "POST":
            sent["Content-Length"] = str(len(content))
        context = self._ssl_context or _default_ssl_context()
        # a pool for each request: no cookie, connection or proxy setting outlives it
        async with httpcore2.AsyncConnectionPool(
            ssl_context=context, network_backend=self._backend, max_connections=1
        ) as pool:
            address = httpcore2.URL(
                scheme=url.scheme.encode(),
                host=url.host.encode(),
                port=url.port,
                target=url.target.encode(),
            )
            extensions = {"timeout": self._timeouts}
            async with pool.stream(
                method, address, headers=list(sent.items()), content=content, extensions=extensions
            ) as response:
                yield response


class _PinnedBackend(AsyncNetworkBackend):
    """Resolve, check, and connect to what was checked; TLS still names the host."""

    def __init__(self, guard: AddressGuard, inner: AsyncNetworkBackend) -> None:
        self._guard = guard
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._guard.addresses(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore2.ConnectError("no address")


@asynccontextmanager
async def _in_time(total_s: float, shown: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(total_s):
            yield
    except TimeoutError:
        raise FetchFailed(
            f"{shown!r} did not answer completely within {total_s:g} seconds."
        ) from None
    except httpcore2.TimeoutException:
        raise FetchFailed(f"{shown!r} stopped answering.") from None
    except ssl.SSLError as error:
        raise FetchFailed(f"{shown!r} has no valid certificate: {error.reason}.") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FetchFailed(f"{shown!r} could not be reached: {reason}.") from None


async def _read_file(response: httpcore2.Response, limits: FetchLimits, shown: str) -> Fetched:
    if response.status != 200:
        raise FetchFailed(
            f"{shown!r} answered with status {response.status}.",
            hint="Open it in a browser without being signed in.",
        )
    declared = _header(response, b"content-length")
    if declared.isdecimal() and int(declared[:20]) > limits.max_bytes:
        raise too_large(limits.max_bytes, repr(shown))
    unpack = _unpacker(_header(response, b"content-encoding"), shown)
    content = bytearray()
    async for chunk in response.aiter_stream():
        for piece in unpack(chunk):
            content += piece
            if len(content) > limits.max_bytes:
                raise too_large(limits.max_bytes, repr(shown))
    if not content:
        raise FetchFailed(f"{shown!r} is empty.")
    content_type = _header(response, b"content-type").partition(";")[0].strip().lower()
    return Fetched(bytes(content), content_type)


def _header(response: httpcore2.Response, name: bytes) -> str:
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return ""


def _unpacker(encoding: str, shown: str) -> Callable[[bytes], Iterator[bytes]]:
    """Return what turns chunks into chunks of the file, never more than 64 KiB at once.

    Identity was asked for; some servers compress all the same, and a bomb must not be unpacked
    further than the limit.
    """
    name = encoding.lower()
    if name in ("", "identity"):
        return lambda chunk: iter((chunk,))
    if name not in ("gzip", "x-gzip", "deflate"):
        raise FetchFailed(f"{shown!r} is compressed as {name[:20]!r}, which was not asked for.")
    stream = zlib.decompressobj(wbits=47 if name != "deflate" else 15)

    def unpack(chunk: bytes) -> Iterator[bytes]:
        while chunk:
            try:
                piece = stream.decompress(chunk, _UNPACK_BYTES)
            except zlib.error:
                raise FetchFailed(f"{shown!r} is damaged: its compression is invalid.") from None
            chunk = stream.unconsumed_tail
            if piece:
                yield piece
            elif not chunk or stream.eof:
                return

    return unpack


@functools.cache
def _default_ssl_context() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()
