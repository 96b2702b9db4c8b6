"""What is over goes away, and nothing else does."""

import os
import time

import pytest

from glmimage.jobs import FileRecord, JobStore, StoreUnavailable
from glmimage.server import sweeper


@pytest.fixture
def swept(serve):
    """Serve, with a sweeper that works only when the test says so."""
    server = serve()
    server.call(server.app.sweeper.stop())
    server.app.sweeper.removed.clear()
    return server


def store_file(server, name, *, expires=None, recorded=True, age=0.0, folder="uploads/ab"):
    """Put a file of some age into the store, with or without its record."""
    path = f"{folder}/{name}"
    server.call(server.files.put(path, b"content"))
    then = time.time() - age
    os.utime(server.files.folder / path, (then, then))
    if recorded:
        record = FileRecord(name, path, "image/png", 7, f"{name}.png", then, expires=expires)
        server.call(server.store.add_file(record))
    return path


def paths(server):
    async def listed():
        return {info.path async for info in server.files.list()}

    return server.call(listed())


def test_expired_files_go_and_others_stay(swept):
    now = time.time()
    for index in range(3):
        store_file(swept, f"old{index}", expires=now - 1 - index)
    kept = {store_file(swept, "young", expires=now + 3600), store_file(swept, "forever")}
    swept.call(swept.app.sweeper.remove_expired())
    assert paths(swept) == kept
    assert swept.app.sweeper.removed["expired"] == 3
    assert swept.call(swept.store.get_file("old0")) is None
    assert swept.call(swept.store.get_file("young")) is not None


def test_a_file_that_is_gone_already_is_no_obstacle(swept):
    path = store_file(swept, "gone", expires=time.time() - 1)
    swept.call(swept.files.delete(path))
    swept.call(swept.app.sweeper.remove_expired())
    assert swept.call(swept.store.get_file("gone")) is None


def test_a_file_that_cannot_be_deleted_keeps_its_record(swept, monkeypatch):
    from glmimage.files import StorageUnavailable

    store_file(swept, "stuck", expires=time.time() - 1)
    delete = swept.files.delete

    async def refuse(path):
        raise StorageUnavailable("not now")

    monkeypatch.setattr(swept.files, "delete", refuse)
    swept.call(swept.app.sweeper.remove_expired())
    assert swept.call(swept.store.get_file("stuck")) is not None
    monkeypatch.setattr(swept.files, "delete", delete)
    swept.call(swept.app.sweeper.remove_expired())
    assert swept.call(swept.store.get_file("stuck")) is None


def test_orphans_go_when_they_were_found_twice(swept, monkeypatch):
    """The date of a file says nothing: clocks are put forward, and buckets have their own."""
    monkeypatch.setattr(sweeper, "BATCH", 2)
    moment = [1000.0]
    monkeypatch.setattr(sweeper.time, "monotonic", lambda: moment[0])
    orphans = {store_file(swept, f"o{index}", recorded=False, age=1e6) for index in range(5)}
    late = store_file(swept, "late", recorded=False)
    known = {store_file(swept, f"known{index}") for index in range(3)}
    swept.call(swept.app.sweeper.remove_orphans())
    record = FileRecord("late", late, "image/png", 7, "late.png", time.time())
    swept.call(swept.store.add_file(record))
    moment[0] += sweeper.ORPHAN_AGE_S - 1
    new = store_file(swept, "new", recorded=False, age=1e6)
    swept.call(swept.app.sweeper.remove_orphans())
    assert paths(swept) == orphans | known | {late, new}
    moment[0] += 2
    swept.call(swept.app.sweeper.remove_orphans())
    assert paths(swept) == known | {late, new}
    assert swept.app.sweeper.removed["orphans"] == 5


def test_what_is_not_ours_is_left_alone(swept, monkeypatch):
    """Names that we never give, in a folder that is shared with somebody: no record is missed."""
    moment = [1000.0]
    monkeypatch.setattr(sweeper.time, "monotonic", lambda: moment[0])
    names = ["my file.txt", "a+b.png", ".keep", "parts/my part"]
    foreign = [swept.files.folder / name for name in names]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"theirs")
        os.utime(file, (0, 0))
    store_file(swept, "orphan", recorded=False)
    for _ in range(2):
        swept.call(swept.app.sweeper.remove_orphans())
        moment[0] += sweeper.ORPHAN_AGE_S
    assert all(file.exists() for file in foreign)
    assert swept.app.sweeper.removed["orphans"] == 1
    assert not swept.app.sweeper.removed["parts"]


def test_parts_go_when_their_upload_never_ended(swept):
    old, young = sweeper.MULTIPART_LIFETIME_S + 60, sweeper.MULTIPART_LIFETIME_S - 60
    store_file(swept, "1-aa", recorded=False, age=old, folder="parts/x")
    kept = store_file(swept, "1-bb", recorded=False, age=young, folder="parts/y")
    swept.call(swept.app.sweeper.remove_orphans())
    assert paths(swept) == {kept}
    assert swept.app.sweeper.removed["parts"] == 1


def test_unfinished_writes_go(swept):
    file = swept.files.folder / "uploads" / ".0123.part"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"half")
    swept.call(swept.app.sweeper.remove_orphans())
    assert file.exists()
    os.utime(file, (0, 0))
    swept.call(swept.app.sweeper.remove_orphans())
    assert not file.exists()


def test_old_results_go_and_the_request_is_not_found(serve):
    server = serve(result_lifetime_s=3600.0)
    server.call(server.app.sweeper.stop())
    old = server.submit()["request_id"]
    unstored = server.submit(headers={"x-fal-store-io": "0"})["request_id"]
    for request_id in (old, unstored):
        assert server.result(request_id).status_code == 200
    server.call(server.app.sweeper.remove_expired())
    assert server.result(old).status_code == 200
    purged = server.call(server.store.purge_results(time.time() + 1))
    assert purged == 2
    gone = server.http.get(f"/queue/fal-ai/glm-image/requests/{old}")
    assert (gone.status_code, gone.json()) == (404, {"status": "NOT_FOUND"})


def test_it_works_by_itself(serve, monkeypatch):
    """A file disappears from the disk soon after its time is over."""
    monkeypatch.setattr(sweeper, "EXPIRY_S", 0.05)
    server = serve()
    path = store_file(server, "brief", expires=time.time() + 0.1)
    server.until(lambda: path not in paths(server))


@pytest.mark.parametrize("error", [StoreUnavailable("not now"), RuntimeError("a mistake")])
def test_a_failure_only_puts_it_off(serve, monkeypatch, error):
    monkeypatch.setattr(sweeper, "EXPIRY_S", 0.02)
    server = serve()
    expired_files, failures = server.store.expired_files, []

    async def fail_twice(*arguments):
        if len(failures) < 2:
            failures.append(1)
            raise error
        return await expired_files(*arguments)

    monkeypatch.setattr(server.store, "expired_files", fail_twice)
    path = store_file(server, "brief", expires=time.time() - 1)
    server.until(lambda: path not in paths(server))
    assert len(failures) == 2


@pytest.mark.parametrize("duty", ["keep_order", "next_webhook_at"])
def test_a_leader_that_cannot_reach_the_store_lets_another_one_lead(serve, monkeypatch, duty):
    """Its lock may be held over another line than its work."""
    server = serve()
    address = f"sqlite:///{server.settings.data_dir / 'jobs.sqlite3'}"
    other = server.call(JobStore.open(address, create=False))
    server.until(lambda: not server.call(other.lead()))

    async def fail(*arguments, **options):
        raise StoreUnavailable("not over this line")

    monkeypatch.setattr(server.store, duty, fail)
    server.until(lambda: server.call(other.lead()))
    assert not server.call(server.store.lead())
    server.call(other.close())
