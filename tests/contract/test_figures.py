"""What is told of the deployment as a whole, on each database."""

import time

import pytest

from glmimage.jobs import FileRecord

pytestmark = pytest.mark.anyio


async def test_lease_losses_and_webhooks_are_counted(store, new_job, claim_one):
    before = await store.figures()
    assert before.webhooks_pending == 0
    for _ in range(3):
        await store.enqueue(new_job(webhook_url="http://hook.example/"))
    for _ in range(2):
        await claim_one(lease_s=0.01)
    kept = await claim_one(lease_s=10_000.0)
    await store.recover_leases(time.time() + 100)
    await store.fail(kept, 500, {"detail": "x"})
    after = await store.figures()
    assert after.lease_losses - before.lease_losses == 2
    assert after.webhooks_pending == 1
    again = await claim_one(lease_s=0.01)
    assert again is not None
    await store.recover_leases(time.time() + 100)
    assert (await store.figures()).lease_losses - before.lease_losses == 3


async def test_files_are_added_up_by_kind(store):
    assert await store.file_figures() == {}
    for index, (kind, size) in enumerate([("output", 7), ("output", 2**40), ("upload", 5)]):
        name = f"file-{index}"
        record = FileRecord(name, f"a/{name}", "image/png", size, name, 0.0, kind=kind)
        await store.add_file(record)
    assert await store.file_figures() == {"output": (2, 7 + 2**40), "upload": (1, 5)}


async def test_the_context_of_a_trace_travels_with_the_job(store, new_job, claim_one):
    context = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    await store.enqueue(new_job(trace_context=context))
    claim = await claim_one()
    assert claim.job.trace_context == context
    assert (await store.get(claim.job.id)).trace_context == context
