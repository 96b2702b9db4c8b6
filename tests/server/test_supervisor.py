"""Workers beside the server: started again after a crash, ended with it, never left behind."""

import asyncio
import os
import signal
import sys
import time

import pytest

from glmimage.server import supervisor
from glmimage.server.supervisor import WorkerRefused, WorkerSupervisor

START = "import os, signal, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n');"
UNTIL_STDIN_CLOSES = "sys.stdin.read()"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(600)"


def make(tmp_path, script, *, grace_s=30.0):
    started = tmp_path / "started"
    started.touch()
    command = [sys.executable, "-S", "-E", "-c", START + script, str(started)]
    return WorkerSupervisor(command, grace_s=grace_s), started


async def process_ids(started, count):
    """Wait until so many workers have written down their ids."""
    async with asyncio.timeout(60):
        while len(lines := started.read_text().split()) < count:
            await asyncio.sleep(0.01)
    return [int(line) for line in lines]


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.01)


def test_a_worker_that_is_killed_is_replaced(tmp_path):
    async def run():
        watch, started = make(tmp_path, UNTIL_STDIN_CLOSES)
        codes = []
        task = asyncio.create_task(watch.run(codes.append))
        for count in (1, 2, 3):
            *_, newest = await process_ids(started, count)
            async with asyncio.timeout(10):  # it may write its number before its start is noted
                while watch.process_id != newest:
                    await asyncio.sleep(0.001)
            if count < 3:
                os.kill(newest, signal.SIGKILL)
        await watch.stop()
        await task
        assert codes == [-signal.SIGKILL] * 2
        assert not any(map(is_alive, await process_ids(started, 3)))

    asyncio.run(run())


def test_pauses_grow_while_workers_keep_dying(tmp_path, monkeypatch):
    pauses = []

    def note(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 5:
            watch._stopping.set()
        return timeout(0)

    timeout = asyncio.timeout
    watch, _ = make(tmp_path, "sys.exit(1)")
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(supervisor.asyncio, "timeout", note)
    asyncio.run(watch.run())
    assert pauses == [0.01, 0.02, 0.04, 0.05, 0.05]


def test_a_first_worker_that_refuses_is_not_tried_again(tmp_path):
    watch, started = make(tmp_path, "sys.exit(2)")
    with pytest.raises(WorkerRefused):
        asyncio.run(watch.run())
    assert len(started.read_text().split()) == 1


def test_a_worker_that_does_not_stop_is_ended(tmp_path):
    async def run():
        watch, started = make(tmp_path, DEAF, grace_s=0.2)
        task = asyncio.create_task(watch.run())
        (process_id,) = await process_ids(started, 1)
        began = time.monotonic()
        await watch.stop()
        await task
        assert time.monotonic() - began >= 0.2
        assert not is_alive(process_id)

    asyncio.run(run())


def test_a_worker_ends_with_its_parent_however_that_ends(tmp_path):
    """Kill a process that supervises: the pipe to its worker closes."""
    started = tmp_path / "started"
    started.touch()
    worker = [sys.executable, "-S", "-E", "-c", START + UNTIL_STDIN_CLOSES, str(started)]
    script = (
        "import asyncio; from glmimage.server.supervisor import WorkerSupervisor;"
        f"asyncio.run(WorkerSupervisor({worker!r}, grace_s=60).run())"
    )

    async def run():
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        (process_id,) = await process_ids(started, 1)
        parent.kill()
        await parent.wait()
        async with asyncio.timeout(30):
            while is_alive(process_id):
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_stopping_before_anything_runs(tmp_path):
    watch, started = make(tmp_path, "pass")

    async def run():
        await watch.stop()
        await watch.run()

    asyncio.run(run())
    assert started.read_text() == ""
