"""The folder: what fails on a real disk."""

import errno
import os
import stat
from pathlib import Path

import pytest

from glmimage.files import FileMissing, StorageFull, StorageUnavailable, open_file_store

pytestmark = pytest.mark.anyio
SYNC = "fdatasync" if hasattr(os, "fdatasync") else "fsync"


@pytest.fixture
def store(tmp_path):
    return open_file_store(tmp_path / "files")


def names(store):
    return sorted(name for _, _, files in os.walk(store.folder) for name in files)


async def test_only_the_owner_looks_into_the_folder(store):
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


async def test_a_file_is_invisible_until_it_is_whole(store):
    async def content():
        yield bytes(2_000_000)
        assert len(names(store)) == 1
        assert names(store)[0].startswith(".")
        with pytest.raises(FileMissing):
            await store.info("a")
        assert [info async for info in store.list()] == []
        yield b"rest"

    await store.put("a", content())
    assert names(store) == ["a"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageUnavailable),
        (errno.EROFS, StorageUnavailable),
    ],
)
@pytest.mark.parametrize("call", [SYNC, "replace"])
async def test_disk_errors_are_told_and_leave_nothing(store, monkeypatch, call, code, kind):
    await store.put("a", b"first")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(kind) as caught:
        await store.put("a", b"second")
    assert "'a'" in caught.value.message
    assert names(store) == ["a"]
    monkeypatch.undo()
    assert b"".join([chunk async for chunk in store.read("a")]) == b"first"


async def test_a_really_full_disk():
    """Write to the device that is always full, through the same code."""
    from glmimage.files.local import _failure

    with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb") as full:
        full.write(b"x")
        full.flush()
    assert isinstance(_failure(caught.value, "a"), StorageFull)


async def test_unfinished_writes_are_removed_when_old(store):
    await store.put("a/b", b"x")
    old, young = store.folder / "a" / ".1.part", store.folder / "a" / ".2.part"
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert await store.remove_unfinished(3600) == 1
    assert names(store) == [".2.part", "b"]
    assert [info.path async for info in store.list()] == ["a/b"]


async def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "files").write_text("x")
    with pytest.raises(StorageUnavailable):
        open_file_store(tmp_path / "files")


async def test_a_link_out_of_the_folder_is_listed_by_nobody(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (store.folder / "link").symlink_to(outside)
    assert [info.path async for info in store.list()] == []


async def test_more_files_are_listed_than_are_read_at_once(store):
    for index in range(1001):
        (store.folder / f"{index:04}").touch()
    assert [info.path async for info in store.list()] == [f"{index:04}" for index in range(1001)]


async def listed(store):
    return [info.path async for info in store.list()]


async def test_what_cannot_be_read_is_left_out_and_told_once(store, monkeypatch, caplog):
    for path in ("closed/a", "open/b", "open/locked", "z"):
        await store.put(path, b"x")
    old = store.folder / "open" / ".1.part"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    scandir, look = os.scandir, Path.stat

    def scan(folder):
        refuse(folder, "closed")
        return scandir(folder)

    def stat_of(path, **options):
        refuse(path, "locked")
        return look(path, **options)

    def refuse(path, name):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(Path, "stat", stat_of)
    for _ in range(2):
        assert await listed(store) == ["z", "open/b"]
    assert await store.remove_unfinished(3600) == 1
    told = [record.getMessage() for record in caplog.records]
    assert [name for line in told for name in ("closed", "locked") if name in line] == [
        "closed",
        "locked",
    ]
    assert all("permission denied" in line for line in told)


async def test_what_goes_while_it_is_listed_is_not_told_of(store, monkeypatch, caplog):
    for path in ("a/b", "c/d", "e"):
        await store.put(path, b"x")
    scandir = os.scandir

    def scan(folder):
        if str(folder).endswith("/a"):
            (store.folder / "a" / "b").unlink()
            (store.folder / "a").rmdir()
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    assert await listed(store) == ["e", "c/d"]
    assert caplog.records == []


async def test_an_unfinished_write_that_cannot_be_removed_stops_nothing(store, monkeypatch, caplog):
    await store.put("a", b"x")
    for name in (".1.part", ".2.part"):
        (store.folder / name).write_bytes(b"half")
        os.utime(store.folder / name, (0, 0))
    unlink = Path.unlink

    def refuse(path, *arguments, **options):
        if path.name == ".1.part":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert await store.remove_unfinished(3600) == 1
    assert names(store) == [".1.part", "a"]
    assert ".1.part" in caplog.text
