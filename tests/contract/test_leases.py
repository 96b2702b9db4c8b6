"""Claims: who holds a job, for how long, how it comes back, and who may still write."""

import time

import pytest

from glmimage.jobs import FileRecord, LeaseLost, Prior, Usage

pytestmark = pytest.mark.anyio
BODY = {"detail": [{"loc": ["body"], "msg": "It broke.", "type": "internal_server_error"}]}
PRIORS = [Prior(0, (2, 3), (0, 1, 2, 3, 4, 2**32 - 1)), Prior(1, (2, 3), (9,) * 6)]


def record(id="f"):
    return FileRecord(id, f"outputs/{id}", "image/png", 3, "a.png", time.time())


async def test_a_claim_carries_what_the_worker_needs(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(input={"prompt": "x", "k": 1}))
    before = time.time()
    claim = await claim_one("w1", lease_s=60)
    assert (claim.worker_id, claim.fence, claim.attempt, claim.priors) == ("w1", 1, 1, ())
    assert claim.job.input == {"prompt": "x", "k": 1}
    assert (claim.job.id, claim.job.state, claim.job.worker_id) == (job.id, "running", "w1")
    assert before + 55 < claim.job.lease_until < time.time() + 65
    assert before - 5 < claim.job.started_at < time.time() + 5
    assert await claim_one() is None


async def test_a_heartbeat_extends_leases_and_brings_news(store, new_job, claim_one):
    for _ in range(3):
        await store.enqueue(new_job())
    kept, cancelled, lost = [await claim_one("w", lease_s=0.001) for _ in range(3)]
    await store.cancel(cancelled.job.id)
    await store.hand_back(lost)
    beat = await store.heartbeat([kept, cancelled, lost], 60)
    assert beat.cancelled == {cancelled.job.id}
    assert beat.lost == {lost.job.id}
    assert await store.recover_leases(time.time()) == []
    assert (await store.heartbeat([], 60)).lost == frozenset()


async def test_a_lease_that_ran_out_frees_the_job(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job())
    await claim_one("slow", lease_s=0.001)
    (freed,) = await store.recover_leases(time.time() + 1)
    assert (freed.id, freed.state, freed.attempt) == (job.id, "queued", 1)
    assert freed.last_error == "The worker stopped answering."
    assert await store.position(job.id) == 0
    again = await claim_one("quick")
    assert (again.fence, again.attempt, again.job.started_at) == (2, 2, freed.started_at)


@pytest.mark.parametrize("call", ["finish", "fail", "hand_back", "priors", "prepared", "cancelled"])
async def test_a_slow_worker_cannot_touch_what_another_has_taken(store, new_job, claim_one, call):
    job, _ = await store.enqueue(new_job())
    old = await claim_one("same name", lease_s=0.001)
    await store.recover_leases(time.time() + 1)
    new = await claim_one("same name")
    with pytest.raises(LeaseLost):
        await {
            "finish": lambda: store.finish(old, {"images": []}, [record()], Usage(1, 1)),
            "fail": lambda: store.fail(old, 500, BODY),
            "hand_back": lambda: store.hand_back(old),
            "priors": lambda: store.save_priors(old, PRIORS, "r"),
            "prepared": lambda: store.prepared(old, {}),
            "cancelled": lambda: store.confirm_cancelled(old),
        }[call]()
    await store.report([], [(old, 0.9)])
    assert (await store.heartbeat([old], 60)).lost == {job.id}
    assert await store.get_file("f") is None
    assert await store.usage() == []
    now = await store.get(job.id)
    assert (now.state, now.progress, now.fence) == ("running", 0.0, new.fence)
    assert (await store.finish(new, {"images": []})).state == "done"


async def test_after_the_last_attempt_a_job_is_dead_and_says_why(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(max_attempts=2, webhook_url="http://h"))
    await claim_one(lease_s=0.001)
    await store.recover_leases(time.time() + 1)
    await claim_one(lease_s=0.001)
    (dead,) = await store.recover_leases(time.time() + 1)
    assert (dead.state, dead.status, dead.dead, dead.attempt) == ("failed", 500, True, 2)
    assert dead.last_error == "The worker stopped answering."
    stored = await store.get(job.id)
    assert stored.result["detail"][0]["type"] == "internal_server_error"
    assert "2 attempts" in stored.error
    assert len(await store.due_webhooks()) == 1
    assert await store.queue_length(job.endpoint) == 0


async def test_a_dead_job_can_be_retried_by_hand(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(max_attempts=1))
    await store.save_priors(await claim_one(), PRIORS[:1], "r")
    await store.recover_leases(time.time() + 100)
    assert (await store.get(job.id)).dead
    again = await store.retry(job.id)
    assert (again.state, again.attempt, again.dead, again.result) == ("queued", 0, False, None)
    assert await store.position(job.id) == 0
    claim = await claim_one(revision="r")
    assert claim.priors == tuple(PRIORS[:1])
    await store.finish(claim, {"images": []})
    assert await store.retry(job.id) is None
    assert await store.retry("nothing") is None


async def test_failures_that_may_pass_are_tried_again(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(max_attempts=2))
    queued = await store.fail(await claim_one(), 500, BODY, retryable=True)
    assert (queued.state, queued.last_error) == ("queued", "It broke.")
    failed = await store.fail(await claim_one(), 500, BODY, retryable=True)
    assert (failed.state, failed.status, failed.dead) == ("failed", 500, True)
    assert (failed.error, failed.error_type) == ("It broke.", "internal_server_error")
    assert (await store.get(job.id)).result == BODY


async def test_failures_that_stay_are_not(store, new_job, claim_one):
    await store.enqueue(new_job())
    failed = await store.fail(await claim_one(), 422, BODY)
    assert (failed.state, failed.status, failed.dead, failed.attempt) == ("failed", 422, False, 1)
    assert await claim_one() is None


async def test_what_is_handed_back_has_cost_no_attempt(store, new_job, claim_one):
    first, _ = await store.enqueue(new_job(max_attempts=1))
    await store.enqueue(new_job())
    for _ in range(3):
        back = await store.hand_back(await claim_one())
        assert (back.state, back.attempt) == ("queued", 0)
    claim = await claim_one()
    assert claim.job.id == first.id  # at its old place
    assert claim.fence == 4


async def test_what_a_worker_does_not_know_of_is_handed_back(store, new_job, claim_one):
    """Claims whose answer it never got: at their old places, and no attempt is lost."""
    for _ in range(4):
        await store.enqueue(new_job(max_attempts=1))
    held, old, lost, others = [await claim_one(name) for name in ("me", "me", "me", "other")]
    await store.hand_back(old)
    again = await claim_one("me")  # the same job once more, of which only the first claim is known
    assert (again.job.id, again.fence) == (old.job.id, 2)
    back = await store.hand_back_others("me", [held, old])
    assert {job.id for job in back} == {again.job.id, lost.job.id}
    for job in back:
        now = await store.get(job.id)
        assert (now.state, now.attempt, now.worker_id, now.dead) == ("queued", 0, None, False)
    for claim in (held, others):
        assert (await store.get(claim.job.id)).worker_id == claim.worker_id
    assert await store.hand_back_others("me", [held]) == []
    with pytest.raises(LeaseLost):
        await store.finish(lost, {"images": []})
    assert [(await claim_one("next")).job.id for _ in range(2)] == [again.job.id, lost.job.id]
    assert [job.id for job in await store.hand_back_others("me")] == [held.job.id]
    assert await store.wait_for_work(["prior"], 0.0)


async def test_the_leases_of_a_dead_worker_run_out_and_nobody_elses(store, new_job):
    for _ in range(4):
        await store.enqueue(new_job())
    mine = await store.claim("dead", ["prior"], 3, 0.001)
    (other,) = await store.claim("alive", ["prior"], 1, 60)
    freed = await store.recover_leases(time.time() + 1)
    assert {job.id for job in freed} == {claim.job.id for claim in mine}
    assert (await store.get(other.job.id)).state == "running"


async def test_a_crash_in_decode_does_not_repeat_the_prior(store, new_job, claim_one):
    await store.enqueue(new_job(num_images=2))
    claim = await claim_one()
    await store.save_priors(claim, PRIORS, "r1")
    await store.recover_leases(time.time() + 100)
    assert await store.claim("w", ["prior"], 1, 60, "r1") == []
    claim = await claim_one(revision="r1")
    assert (claim.job.stage, claim.priors) == ("decode", tuple(PRIORS))


async def test_another_revision_never_goes_on_with_a_prior(store, new_job, claim_one):
    await store.enqueue(new_job())
    await store.save_priors(await claim_one(revision="r1"), PRIORS[:1], "r1")
    await store.recover_leases(time.time() + 100)
    assert await claim_one(revision="r2") is None
    assert await claim_one(revision="r1") is not None


async def test_the_stages_can_be_done_by_different_workers(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(num_images=2))
    claim = await claim_one("writer", stages=["prior"])
    await store.save_priors(claim, PRIORS, "r", release=True)
    between = await store.get(job.id)
    assert (between.state, between.stage, between.worker_id) == ("running", "decode", None)
    with pytest.raises(LeaseLost):
        await store.finish(claim, {})
    assert await claim_one("writer", stages=["prior"]) is None
    painted = await claim_one("painter", stages=["decode"], revision="r")
    assert (painted.fence, painted.attempt, painted.priors) == (2, 1, tuple(PRIORS))
    assert (await store.finish(painted, {"images": []})).state == "done"


async def test_priors_are_found_for_an_equal_request(store, new_job, claim_one):
    await store.enqueue(new_job(prior_key="k", num_images=2))
    await store.save_priors(await claim_one(), PRIORS, "r1")
    assert await store.find_cached_prior("k", "r1") == tuple(PRIORS)
    assert await store.find_cached_prior("k") == tuple(PRIORS)
    assert await store.find_cached_prior("k", "r2") == ()
    assert await store.find_cached_prior("other", "r1") == ()


async def test_preparation_is_a_stage_of_its_own(store, new_job, claim_one):
    job, position = await store.enqueue(new_job(needs_preparation=True))
    assert (job.state, position) == ("preparing", 0)
    assert await claim_one() is None
    claim = await claim_one("server", stages=["prepare"])
    assert (claim.job.state, await store.position(job.id)) == ("preparing", 0)
    await store.recover_leases(time.time() + 100)
    claim = await claim_one("server", stages=["prepare"])
    await store.prepared(claim, {"prompt": "long"}, ["f1"], "key")
    claim = await claim_one()
    assert (claim.job.input, claim.job.reference_file_ids) == ({"prompt": "long"}, ("f1",))
    assert (claim.job.prior_key, claim.attempt) == ("key", 1)


async def test_finishing_writes_everything_or_nothing(store, new_job, claim_one):
    job, _ = await store.enqueue(new_job(webhook_url="http://h", api_key_id="key"))
    claim = await claim_one()
    await store.add_file(record("taken"))
    with pytest.raises(Exception, match="database"):
        await store.finish(claim, {"images": [1]}, [record("a"), record("taken")], Usage(1, 0.1))
    assert (await store.get(job.id)).state == "running"
    assert await store.get_file("a") is None
    assert (await store.usage(), await store.due_webhooks()) == ([], [])
    done = await store.finish(claim, {"images": [2]}, [record("a")], Usage(2.0, 0.15, 3.0))
    assert (done.state, done.status, done.progress) == ("done", 200, 1.0)
    assert (await store.get(job.id)).result == {"images": [2]}
    assert (await store.get_file("a")).path == "outputs/a"
    (row,) = await store.usage(by_key=True)
    assert (row.api_key_id, row.megapixels, row.cost) == ("key", 2.0, pytest.approx(0.3))
    assert len(await store.due_webhooks()) == 1
