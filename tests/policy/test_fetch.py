"""Fetching within limits, from servers that misbehave in every way."""

import asyncio
import base64
import gzip
import zlib

import pytest

from glmimage.policy import FetchFailed, FileTooLarge
from glmimage.policy.fetch import _unpacker, read_data_uri

from .conftest import PUBLIC, page

pytestmark = pytest.mark.anyio
URL = "http://example.com/a"


async def test_a_file_comes_back_with_its_type(internet):
    internet.pages = {"/a": page(b"\x89PNG", content_type="Image/PNG; charset=binary")}
    fetched = await internet.fetch(URL)
    assert (fetched.content, fetched.content_type) == (b"\x89PNG", "image/png")
    head = internet.requests[0].lower()
    assert "accept-encoding: identity" in head
    assert "authorization" not in head
    assert "cookie" not in head


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial", "401 No", "404 No", "500 No"])
async def test_only_200_is_a_file(internet, status):
    internet.pages = {"/a": page(b"x", status)}
    with pytest.raises(FetchFailed, match=status[:3]):
        await internet.fetch(URL)


async def test_an_empty_file_is_none(internet):
    internet.pages = {"/a": page(b"")}
    with pytest.raises(FetchFailed, match="empty"):
        await internet.fetch(URL)


async def test_a_declared_size_over_the_limit_is_not_read(internet):
    internet.pages = {"/a": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\nx"}
    with pytest.raises(FileTooLarge) as caught:
        await internet.fetch(URL, max_bytes=100)
    assert caught.value.context == {"max_size": 100}


async def test_an_endless_body_is_cut_at_the_limit(internet):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    internet.pages = {"/a": endless}
    with pytest.raises(FileTooLarge):
        await internet.fetch(URL, max_bytes=1_000_000)
    await asyncio.wait_for(internet.closed.wait(), 5)


async def test_an_endless_chunked_body_is_cut_at_the_limit(internet):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    internet.pages = {"/a": endless}
    with pytest.raises(FileTooLarge):
        await internet.fetch(URL, max_bytes=1_000_000)


async def test_a_body_that_trickles_is_given_up(internet):
    """A byte now and then resets the idle clock; the clock of the whole does not care."""

    async def trickle(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    internet.pages = {"/a": trickle}
    with pytest.raises(FetchFailed, match=r"within 0\.3 seconds"):
        await internet.fetch(URL, total_s=0.3)


async def test_headers_that_trickle_are_given_up(internet):
    async def trickle(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for index in range(1000):
            writer.write(b"X-%d: y\r\n" % index)
            await writer.drain()
            await asyncio.sleep(0.02)

    internet.pages = {"/a": trickle}
    with pytest.raises(FetchFailed, match=r"within 0\.3 seconds"):
        await internet.fetch(URL, total_s=0.3)


async def test_endless_headers_are_given_up(internet):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y" * 65536)
            await writer.drain()

    internet.pages = {"/a": endless}
    with pytest.raises(FetchFailed, match="could not be reached"):
        await internet.fetch(URL)


async def test_endless_interim_answers_are_given_up(internet):
    async def endless(writer):
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0)

    internet.pages = {"/a": endless}
    with pytest.raises(FetchFailed):
        await internet.fetch(URL, total_s=0.3)


async def test_silence_is_given_up(internet):
    async def silent(writer):
        await asyncio.sleep(30)

    internet.pages = {"/a": silent}
    with pytest.raises(FetchFailed, match="stopped answering"):
        await internet.fetch(URL, idle_s=0.2)


async def test_a_body_that_ends_early_is_a_failure(internet):
    internet.pages = {"/a": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort"}
    with pytest.raises(FetchFailed, match="could not be reached"):
        await internet.fetch(URL)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00\xff" * 100]
)
async def test_what_is_not_http_is_a_failure(internet, answer):
    internet.pages = {"/a": answer}
    with pytest.raises(FetchFailed):
        await internet.fetch(URL)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
async def test_compressed_files_are_unpacked(internet, encoding, pack):
    internet.pages = {"/a": page(pack(b"picture" * 100_000), content_encoding=encoding)}
    assert (await internet.fetch(URL)).content == b"picture" * 100_000


@pytest.mark.parametrize("wrapped", [1, 2])
async def test_a_gzip_bomb_is_unpacked_to_the_limit_and_no_further(internet, wrapped):
    bomb = b"\0" * 100_000_000
    for _ in range(wrapped):
        bomb = gzip.compress(bomb, 1)
    internet.pages = {"/a": page(bomb, content_encoding="gzip")}
    if wrapped == 1:
        with pytest.raises(FileTooLarge):
            await internet.fetch(URL, max_bytes=1_000_000)
    else:  # one layer is taken off, and what is left is no picture
        assert len((await internet.fetch(URL, max_bytes=1_000_000)).content) < 1_000_000


def test_a_gzip_bomb_is_unpacked_in_small_pieces():
    """One chunk of the network may hold a thousand times its size."""
    pieces = _unpacker("gzip", "a")(gzip.compress(bytes(10_000_000)))
    assert {len(piece) for piece in pieces} <= {65_536, 10_000_000 % 65_536}


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "nonsense"])
async def test_other_encodings_are_refused(internet, encoding):
    internet.pages = {"/a": page(b"x", content_encoding=encoding)}
    with pytest.raises(FetchFailed, match="not asked for"):
        await internet.fetch(URL)


async def test_damaged_compression_is_a_failure(internet):
    internet.pages = {"/a": page(b"not gzip at all", content_encoding="gzip")}
    with pytest.raises(FetchFailed, match="damaged"):
        await internet.fetch(URL)


async def test_proxies_of_the_environment_are_not_used(internet, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    internet.pages = {"/a": page(b"picture")}
    assert (await internet.fetch(URL)).content == b"picture"
    assert internet.dialled == [(PUBLIC, 80)]


async def test_tls_names_the_host_and_not_the_address(internet):
    """Speak no TLS and read what the client says first: the name is in its greeting."""
    greeting = bytearray()

    async def listen(reader, writer):
        greeting.extend(await reader.read(4096))
        writer.close()

    internet.answer = listen
    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    internet.port = server.sockets[0].getsockname()[1]
    with pytest.raises(FetchFailed):
        await internet.fetch("https://example.com/a")
    server.close()
    assert internet.dialled == [(PUBLIC, 443)]
    assert b"example.com" in greeting


async def test_posting_sends_the_bytes_as_they_are(internet):
    internet.pages = {"/hook?a=1": page(b"thanks", "202 Accepted")}
    status = await internet.post(
        "http://example.com/hook?a=1", b'{"a":"\\u00e4"}', headers={"X-Signature": "ab"}
    )
    assert status == 202
    assert internet.requests[0].endswith('\r\n\r\n{"a":"\\u00e4"}')
    assert "x-signature: ab" in internet.requests[0].lower()


async def test_posting_follows_no_redirect(internet):
    internet.pages = {"/hook": page(status="302 Found", location="http://127.0.0.1/")}
    assert await internet.post("http://example.com/hook", b"{}") == 302
    assert len(internet.dialled) == 1


async def test_posting_is_guarded(internet):
    with pytest.raises(FetchFailed):
        await internet.post("http://127.0.0.1/hook", b"{}")
    assert internet.dialled == []


async def test_posting_does_not_wait_for_the_body(internet):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    internet.pages = {"/hook": endless}
    assert await internet.post("http://example.com/hook", b"{}") == 200


PIXEL = base64.b64encode(b"picture").decode()


@pytest.mark.parametrize(
    ("uri", "content", "content_type"),
    [
        (f"data:image/png;base64,{PIXEL}", b"picture", "image/png"),
        (f"DATA:IMAGE/PNG;BASE64,{PIXEL}", b"picture", "image/png"),
        (f"data:;base64,{PIXEL}", b"picture", "text/plain"),
        (f"data:image/png;charset=utf-8;base64,{PIXEL}", b"picture", "image/png"),
        (f"data:image/png;base64,{PIXEL.rstrip('=')}", b"picture", "image/png"),
        ("data:image/png;base64,cGlj\ndHVy\r\nZQ==", b"picture", "image/png"),
        ("data:image/png;base64,cGljdHVyZQ%3D%3D", b"picture", "image/png"),
        ("data:text/plain,a%20b", b"a b", "text/plain"),
        ("data:,abc", b"abc", "text/plain"),
    ],
)
async def test_data_uris_are_read(internet, uri, content, content_type):
    fetched = await internet.fetch(uri)
    assert (fetched.content, fetched.content_type) == (content, content_type)
    assert internet.dialled == []


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,***",
        "data:image/png;base64,abc!",
        "data:image/png;base64,a",
        "data:image/png;base64,ab=c",
        "data:image/png;base64,====",
        "data:image/png;base64,äöü",
        "data:" + "x" * 300 + ",abc",
        "data:image/png;base64;" + PIXEL,
    ],
)
def test_malformed_data_uris_are_refused(uri):
    with pytest.raises(FetchFailed) as caught:
        read_data_uri(uri, 1000)
    assert "data URI" in caught.value.message


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(bytes(1001)).decode(),
        "data:image/png;base64," + "A" * 100_000,
        "data:text/plain," + "a" * 1001,
        "data:text/plain," + "a" * 100_000,
    ],
)
def test_large_data_uris_are_refused(uri):
    with pytest.raises(FileTooLarge):
        read_data_uri(uri, 1000)


def test_a_data_uri_may_be_as_large_as_the_limit():
    assert len(read_data_uri("data:text/plain," + "%61" * 1000, 1000).content) == 1000
