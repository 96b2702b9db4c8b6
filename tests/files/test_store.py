"""What both stores do alike."""

import asyncio
import time

import pytest

from glmimage.errors import InvalidSettings
from glmimage.files import FileMissing, TooManyBytes, open_file_store
from glmimage.files.store import read_all

pytestmark = pytest.mark.anyio
LARGE = bytes(range(256)) * 40_000  # ten chunks of the store, several parts of S3


async def chunks(content, size=70_000):
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def listed(store, prefix=""):
    return sorted([info.path async for info in store.list(prefix)])


async def read(store, *arguments):
    return b"".join([chunk async for chunk in store.read(*arguments)])


@pytest.mark.parametrize("content", [b"", b"hello", LARGE], ids=len)
async def test_what_is_put_is_read(store, content):
    assert await store.put("a/b/whole.png", content) == len(content)
    assert await store.put("a/b/streamed.png", chunks(content)) == len(content)
    for path in ("a/b/whole.png", "a/b/streamed.png"):
        assert await read_all(store, path) == content
        info = await store.info(path)
        assert (info.path, info.size) == (path, len(content))
        assert abs(info.modified - time.time()) < 120
        assert await store.size(path) == len(content)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, None),
        (0, 1),
        (5, 10),
        (1_048_575, 1_048_577),
        (9_999_999, None),
        (10_239_999, 10_240_000),
        (10_239_999, 99_999_999),
        (10_240_000, None),
        (99_999_999, None),
        (5, 5),
        (5, 4),
    ],
)
async def test_parts_of_a_file(store, start, end):
    await store.put("a", LARGE)
    assert await read(store, "a", start, end) == LARGE[start:end]


async def test_a_file_is_replaced_at_once(store):
    await store.put("a", b"first")
    await store.put("a", b"second, longer")
    assert await read_all(store, "a") == b"second, longer"
    assert await listed(store) == ["a"]


async def test_too_many_bytes_leave_what_was_there(store):
    await store.put("a", b"first")
    assert await store.put("b", bytes(1000), max_bytes=1000) == 1000
    for content in (bytes(1001), chunks(bytes(9_000_000))):
        with pytest.raises(TooManyBytes, match="more than 1000 bytes"):
            await store.put("a", content, max_bytes=1000)
    assert await read_all(store, "a") == b"first"
    assert await listed(store) == ["a", "b"]


@pytest.mark.parametrize("size", [100, 7_000_000])
async def test_a_sender_that_fails_leaves_nothing(store, size):
    async def broken():
        yield bytes(size)
        raise ConnectionResetError("hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        await store.put("a", broken())
    assert await listed(store) == []


async def test_a_put_that_is_cancelled_leaves_nothing(store):
    began = asyncio.Event()

    async def hanging():
        yield bytes(100)
        began.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(store.put("a", hanging()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await listed(store) == []


async def test_deleting(store):
    await store.put("a", b"x")
    assert await store.delete("a")
    assert not await store.delete("a")
    assert await listed(store) == []


async def test_renaming(store):
    await store.put("a/b", b"new")
    await store.put("c/d", b"old")
    await store.rename("a/b", "c/d")
    assert await listed(store) == ["c/d"]
    assert await read_all(store, "c/d") == b"new"
    with pytest.raises(FileMissing):
        await store.rename("a/b", "c/e")


async def test_listing_by_folder(store):
    for path in ("a/1", "a/b/2", "ab/3", "4"):
        await store.put(path, path.encode())
    assert await listed(store) == ["4", "a/1", "a/b/2", "ab/3"]
    assert await listed(store, "a") == ["a/1", "a/b/2"]
    assert await listed(store, "a/b") == ["a/b/2"]
    assert await listed(store, "nothing") == []
    sizes = {info.path: info.size async for info in store.list()}
    assert sizes == {"4": 1, "a/1": 3, "a/b/2": 5, "ab/3": 4}


async def test_what_is_missing_is_told(store):
    for call in (store.info, store.size):
        with pytest.raises(FileMissing, match="There is no file 'a/b'"):
            await call("a/b")
    for arguments in ((), (5,), (5, 7)):
        with pytest.raises(FileMissing):
            await read(store, "a/b", *arguments)


async def test_a_folder_is_no_file(store):
    await store.put("a/b", b"x")
    with pytest.raises(FileMissing):
        await read(store, "a")
    assert not await store.delete("a")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a"),
        *("a/.part", "a\\b", "a b", "a\0b", "ä", "a\n", "a%2fb", "x" * 300, "~", "C:"),
    ],
)
async def test_paths_cannot_leave_the_store(store, path):
    for call in (store.info, store.size, store.delete):
        with pytest.raises(ValueError, match="is not a path"):
            await call(path)
    with pytest.raises(ValueError, match="is not a path"):
        await store.put(path, b"x")
    with pytest.raises(ValueError, match="is not a path"):
        await read(store, path)
    with pytest.raises(ValueError, match="is not a path"):
        await store.rename("a", path)
    assert await listed(store) == []


async def test_many_at_once(store):
    contents = {f"x/{index}": bytes([index]) * 200_000 for index in range(16)}
    await asyncio.gather(*(store.put(path, chunks(c)) for path, c in contents.items()))
    read_back = await asyncio.gather(*(read_all(store, path) for path in contents))
    assert read_back == list(contents.values())


async def test_closing(store):
    await store.put("a", b"x")
    assert await store.remove_unfinished(0) == 0
    await store.close()


@pytest.mark.parametrize(
    "address",
    [
        "gs://bucket",
        "http://host/x",
        "s3://",
        "s3://A_B/x",
        "s3://bucket?colour=red",
        "s3://bucket?region=x&secret=y",
    ],
)
def test_wrong_addresses_are_refused(address):
    with pytest.raises(InvalidSettings) as caught:
        open_file_store(address)
    assert caught.value.hint
