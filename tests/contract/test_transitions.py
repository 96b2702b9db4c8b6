"""Every call at every point of a job's life: where it leads, or that it is refused."""

import time

import pytest

from glmimage.jobs import LeaseLost, Prior, WrongState

pytestmark = pytest.mark.anyio
PRIORS = [Prior(0, (1, 1), (1,))]
BODY = {"detail": [{"loc": ["body"], "msg": "It broke.", "type": "internal_server_error"}]}
DEADLINE_S = 1000.0

# state, stage, and "held" while a worker holds it
POINTS = {
    "preparing": "preparing prepare",
    "being prepared": "preparing prepare held",
    "queued": "queued prior",
    "writing": "running prior held",
    "came back": "queued prior",
    "decoding": "running decode held",
    "between stages": "running decode",
    "came back with its prior": "queued decode",
    "done": "done decode",
    "failed": "failed prior",
    "dead": "failed prior",
    "cancelled": "cancelled prior",
}
LOST, WRONG = LeaseLost, WrongState
# of the owner of a claim, then of anybody, then of time; what is not named changes nothing
OWNERS = {
    "being prepared": {
        "prepared": "queued prior",
        "save priors": WRONG,
        "release": WRONG,
        "finish": WRONG,
        "fail": "failed prepare",
        "fail in passing": "preparing prepare",
        "hand back": "preparing prepare",
        "confirm cancelled": "cancelled prepare",
    },
    "writing": {
        "prepared": WRONG,
        "save priors": "running decode held",
        "release": "running decode",
        "finish": "done prior",
        "fail": "failed prior",
        "fail in passing": "queued prior",
        "hand back": "queued prior",
        "confirm cancelled": "cancelled prior",
    },
    "decoding": {
        "prepared": WRONG,
        "save priors": "running decode held",
        "release": "running decode",
        "finish": "done decode",
        "fail": "failed decode",
        "fail in passing": "queued decode",
        "hand back": "queued decode",
        "confirm cancelled": "cancelled decode",
    },
}
OTHERS = {
    "preparing": {"claim prepare": "preparing prepare held", "cancel": "cancelled prepare"},
    "queued": {"claim prior": "running prior held", "cancel": "cancelled prior"},
    "came back": {"claim prior": "running prior held", "cancel": "cancelled prior"},
    "between stages": {"claim decode": "running decode held", "cancel": "cancelled decode"},
    "came back with its prior": {
        "claim decode": "running decode held",
        "cancel": "cancelled decode",
    },
    "failed": {"retry": "queued prior"},
    "dead": {"retry": "queued prior"},
    "cancelled": {"retry": "queued prior"},
}
TIME = {
    "preparing": {"deadline": "failed prepare"},
    "being prepared": {
        "deadline": "failed prepare",
        "lease": "preparing prepare",
        "worker leaves": "preparing prepare",
    },
    "queued": {"deadline": "failed prior"},
    "writing": dict.fromkeys(("lease", "worker leaves"), "queued prior"),
    "decoding": dict.fromkeys(("lease", "worker leaves"), "queued decode"),
}
OWNERS_CALLS = tuple(OWNERS["writing"])
OTHER_CALLS = ("cancel", "retry", "claim prepare", "claim prior", "claim decode")
TIMES = ("deadline", "lease", "worker leaves", "order")


async def bring_to(store, new_job, point):
    preparing = point in ("preparing", "being prepared")
    changes = {"start_deadline": time.time() + DEADLINE_S, "needs_preparation": preparing}
    job, _ = await store.enqueue(new_job(**changes, max_attempts=1 if point == "dead" else 3))
    if point in ("preparing", "queued"):
        return job.id, None
    (claim,) = await store.claim("worker", ["prepare" if preparing else "prior"], 1, 60)
    if point in ("decoding", "between stages", "came back with its prior", "done"):
        await store.save_priors(claim, PRIORS, "r", release=point == "between stages")
    if point.startswith("came back"):
        await store.hand_back(claim)
    elif point == "done":
        await store.finish(claim, {"images": []})
    elif point in ("failed", "dead"):
        await store.fail(claim, 500, BODY, retryable=point == "dead")
    elif point == "cancelled":
        await store.cancel(job.id)
        await store.confirm_cancelled(claim)
    return job.id, claim


async def call(store, name, job_id, claim):
    later = time.time() + 2 * DEADLINE_S
    kind, _, stage = name.partition(" ")
    if kind == "claim":
        return await store.claim("another", [stage], 5, 60, "r")
    return await {
        "prepared": lambda: store.prepared(claim, {"prompt": "b"}),
        "save priors": lambda: store.save_priors(claim, PRIORS, "r"),
        "release": lambda: store.save_priors(claim, PRIORS, "r", release=True),
        "finish": lambda: store.finish(claim, {"images": []}),
        "fail": lambda: store.fail(claim, 422, BODY),
        "fail in passing": lambda: store.fail(claim, 500, BODY, retryable=True),
        "hand back": lambda: store.hand_back(claim),
        "confirm cancelled": lambda: store.confirm_cancelled(claim),
        "cancel": lambda: store.cancel(job_id),
        "retry": lambda: store.retry(job_id),
        "deadline": lambda: store.expire_starts(later),
        "lease": lambda: store.recover_leases(time.time() + 100),
        "worker leaves": lambda: store.hand_back_others("worker"),
        "order": store.keep_order,
    }[name]()


async def where(store, job_id):
    job = await store.get(job_id)
    return " ".join([job.state, job.stage, *(["held"] if job.worker_id else [])])


@pytest.mark.parametrize("point", POINTS)
async def test_every_call_leads_where_it_should(store, new_job, point):
    for name in (*OWNERS_CALLS, *OTHER_CALLS, *TIMES):
        if name in OWNERS_CALLS and point in ("preparing", "queued"):
            continue  # nobody has ever held it
        job_id, claim = await bring_to(store, new_job, point)
        assert await where(store, job_id) == POINTS[point]
        default = LOST if name in OWNERS_CALLS else POINTS[point]
        named = OWNERS.get(point, {}) | OTHERS.get(point, {}) | TIME.get(point, {})
        expected = named.get(name, default)
        before = await store.get(job_id)
        if isinstance(expected, str):
            await call(store, name, job_id, claim)
            assert await where(store, job_id) == expected, name
        else:
            with pytest.raises(expected):
                await call(store, name, job_id, claim)
            assert await store.get(job_id) == before, name
        # what is counted agrees with what waits, whatever was done
        jobs, _ = await store.live_jobs()
        waiting = sum(job.waiting for job in jobs)
        assert await store.queue_length(before.endpoint) == waiting, name
        await clear(store, job_id)


async def clear(store, job_id):
    """Bring the job to an end, so that the next one is alone."""
    await store.cancel(job_id)
    await store.recover_leases(time.time() + 1e6)
    assert (await store.get(job_id)).ended
