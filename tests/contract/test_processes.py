"""Eight processes claim at once, and some of them die: no job twice, none forgotten."""

import asyncio
import collections
import json
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.anyio
NUM_PROCESSES = 8
NUM_JOBS = 240

# claim, write one line a claim, finish; "abandon" dies without a word while it holds some
CLAIMER = """
import asyncio, os, signal, sys
from glmimage.jobs import JobStore

async def main(url, name, abandon_after):
    print("ready", flush=True)
    sys.stdin.readline()
    async with await JobStore.open(url, create=False) as store:
        number = 0
        while claims := await store.claim(name, ["prior"], 3, 60):
            number += 1
            if number == int(abandon_after):
                os.kill(os.getpid(), signal.SIGKILL)
            for claim in claims:
                await store.finish(claim, {"by": name, "fence": claim.fence})
                print(claim.job.id, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_eight_processes_share_the_queue(database_url, store, new_job):
    await asyncio.gather(*(store.enqueue(new_job()) for _ in range(NUM_JOBS)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, database_url, f"w{index}", "2" if index < 2 else "-1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_PROCESSES)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [(await asyncio.to_thread(process.communicate))[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert set(codes[2:]) == {0}
    finished = collections.Counter(id for output in outputs for id in output.split())
    assert set(finished.values()) == {1}
    live, _ = await store.live_jobs()
    killed = codes.count(-signal.SIGKILL)
    assert 1 <= killed <= 2
    assert len(live) <= 3 * killed
    assert len(finished) + len(live) == NUM_JOBS
    freed = await store.recover_leases(time.time() + 120)
    assert {job.id for job in freed} == {job.id for job in live}
    claims = await store.claim("last", ["prior"], 10, 60)
    assert {claim.job.id for claim in claims} == {job.id for job in live}
    assert {claim.fence for claim in claims} <= {2}
    assert await store.queue_length(new_job().endpoint) == 0
    writers = {json.dumps((await store.get(id)).result["by"]) for id in finished}
    assert len(writers) >= 2  # the work was shared indeed
