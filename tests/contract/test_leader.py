"""What is done in one place at a time, and goes on elsewhere when that place is gone."""

import asyncio
import signal
import subprocess
import sys

import pytest

from glmimage.jobs import JobStore

pytestmark = pytest.mark.anyio

LEAD = """
import asyncio, sys, time
from glmimage.jobs import JobStore

async def main(url):
    async with await JobStore.open(url, create=False) as store:
        while True:
            if await store.lead():
                print("leads", flush=True)
                time.sleep(1000)
            await asyncio.sleep(0.02)

asyncio.run(main(sys.argv[1]))
"""


async def test_one_of_two_stores_leads_until_it_is_closed(database_url, store):
    async with await JobStore.open(database_url, create=False) as other:
        assert [await store.lead(), await other.lead()] == [True, False]
        assert [await store.lead(), await other.lead()] == [True, False]
        await store.close()
        for _ in range(100):  # the server may take a moment to see it
            if await other.lead():
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("nobody leads")


async def test_a_leader_that_is_killed_is_followed(database_url, store):
    process = subprocess.Popen(
        [sys.executable, "-c", LEAD, database_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "leads\n"
    assert not await store.lead()
    process.send_signal(signal.SIGSTOP)
    assert not await store.lead()  # slow is not dead
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(200):
        if await store.lead():
            return
        await asyncio.sleep(0.05)
    pytest.fail("nobody leads")
