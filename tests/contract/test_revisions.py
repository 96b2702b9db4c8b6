"""Roll-outs: a prior is painted by the model revision that wrote it, or written again."""

import pytest

from glmimage.jobs import Prior

pytestmark = pytest.mark.anyio
PRIORS = [Prior(0, (1, 1), (1,))]


async def write_prior(store, new_job, revision):
    """Leave a job between its stages, its prior written by a worker of a revision."""
    job, _ = await store.enqueue(new_job())
    (claim,) = await store.claim("writer", ["prior"], 1, 60, revision)
    await store.save_priors(claim, PRIORS, revision, release=True)
    return job.id


async def seen(store, name, revision, stages=("prior", "decode")):
    await store.worker_seen(name, stages, "model", revision)


async def test_a_worker_hears_only_of_what_it_can_finish(store, new_job):
    old = await write_prior(store, new_job, "old")
    assert not await store.wait_for_work(["prior", "decode"], 0.02, "new")
    assert await store.claim("w", ["prior", "decode"], 5, 60, "new") == []
    assert await store.wait_for_work(["prior", "decode"], 5, "old")
    (fresh, _) = await store.enqueue(new_job())
    (claim,) = await store.claim("w", ["prior", "decode"], 5, 60, "new")
    assert claim.job.id == fresh.id
    (claim,) = await store.claim("w", ["prior", "decode"], 5, 60, "old")
    assert (claim.job.id, claim.priors) == (old, tuple(PRIORS))


async def test_what_came_back_keeps_its_revision(store, new_job):
    job_id = await write_prior(store, new_job, "old")
    (claim,) = await store.claim("w", ["decode"], 1, 60, "old")
    await store.hand_back(claim)
    assert await store.claim("w", ["prior", "decode"], 5, 60, "new") == []
    assert (await store.get(job_id)).model_revision == "old"


async def test_a_revision_that_nobody_runs_is_given_up(store, new_job):
    job_id = await write_prior(store, new_job, "old")
    await seen(store, "decoder", "new", ["decode"])
    await store.keep_order()
    assert (await store.get(job_id)).stage == "decode"  # nobody could begin it again
    await seen(store, "both", "new")
    await seen(store, "last of the old", "old", ["decode"])
    await store.keep_order()
    assert (await store.get(job_id)).stage == "decode"
    await store.worker_gone("last of the old")
    await store.keep_order()
    job = await store.get(job_id)
    assert (job.stage, job.model_revision, job.state) == ("prior", None, "running")
    assert [entry.level for entry in await store.logs(job_id)] == ["WARN"]
    (claim,) = await store.claim("both", ["prior", "decode"], 1, 60, "new")
    assert (claim.job.id, claim.priors) == (job_id, ())
    await store.save_priors(claim, PRIORS, "new")
    assert (await store.finish(claim, {"images": []})).state == "done"


async def test_while_all_workers_are_away_nothing_is_given_up(store, new_job):
    job_id = await write_prior(store, new_job, "old")
    await store.keep_order()
    assert (await store.get(job_id)).model_revision == "old"
