"""The simulated line is the job store's, the worker the scheduler's; and it adds up."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from glmimage.engine.scheduler import Limits
from glmimage.jobs import JobStore, NewJob

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from cluster_model import Cluster, Failures, Line, Request, Times, Worker

TIMES = Times(
    tokens=512,
    token_rates={1: 1000.0, 8: 2000.0},
    step_s=0.1,
    num_steps=10,
    decode_s=0.5,
    patches=1024,
    megapixels=0.25,
)


def arrivals(times, gap_s=0.0, number=1, priority="normal", key="a"):
    for index in range(number):
        yield Request(index, index * gap_s, priority, key, times)


def cluster_of(*workers, failures=None):
    return Cluster(list(workers), failures or Failures(), seed=0)


def both(jobs=1):
    return Worker(("prior", "decode"), jobs, Limits())


@pytest.mark.parametrize("seed", range(3))
def test_the_line_is_the_job_stores(tmp_path, seed):
    """Random requests of keys, sizes and priorities: claimed in the same order, aged ones too."""
    stream = random.Random(seed)
    steps = [
        ("claim", stream.randint(1, 4))
        if stream.random() < 0.35
        else ("enqueue", stream.choice("abc"), stream.choice(["normal", "normal", "low"]))
        for _ in range(120)
    ]
    steps[60:60] = [("age",)]
    sizes = [stream.choice([512, 1024, 2048]) for _ in steps]

    async def real():
        order = []
        async with await JobStore.open(f"sqlite:///{tmp_path}/store.sqlite3") as store:
            for index, (step, size) in enumerate(zip(steps, sizes, strict=True)):
                if step[0] == "enqueue":
                    job = NewJob(
                        "e",
                        {"prompt": "a"},
                        id=str(index),
                        api_key_id=step[1],
                        priority=step[2],
                        width=size,
                        height=size,
                    )
                    await store.enqueue(job)
                elif step[0] == "claim":
                    claims = await store.claim("w", ["prior"], step[1], 60.0)
                    order += [claim.job.id for claim in claims]
                else:
                    await store.keep_order(ageing_s=-1.0)
            order += [claim.job.id for claim in await store.claim("w", ["prior"], 500, 60.0)]
        return order

    line, order = Line(ageing_s=-1.0), []
    for index, (step, size) in enumerate(zip(steps, sizes, strict=True)):
        if step[0] == "enqueue":
            times = Times(512, {1: 1.0}, 1.0, 1, 0.0, 1024, size * size / 1e6)
            line.enqueue(Request(index, 0.0, step[2], step[1], times))
        elif step[0] == "claim":
            claimed = line.claim(("prior",), step[1])
            for request in claimed:
                request.started = 0.0
            order += [str(request.number) for request in claimed]
        else:
            line.age(1.0)
    order += [str(request.number) for request in line.claim(("prior",), 500)]
    assert len(order) == sum(step[0] == "enqueue" for step in steps)
    assert order == asyncio.run(real())


def test_one_request_takes_as_long_as_its_stages():
    (request,) = cluster_of(both()).run(arrivals(TIMES))
    assert request.started == 0.0
    assert request.ended == pytest.approx(512 / 1000 + 10 * 0.1 + 0.5)


def test_requests_one_at_a_time_wait_for_each_other():
    requests = cluster_of(both()).run(arrivals(TIMES, number=3))
    one = 512 / 1000 + 1.5
    assert [r.started for r in requests] == pytest.approx([0.0, one, 2 * one])


def test_rows_share_the_prior_by_the_measured_rate():
    worker = Worker(("prior",), 8, Limits())
    painter = Worker(("decode",), 1, Limits())
    requests = cluster_of(worker, painter).run(arrivals(TIMES, number=8))
    assert worker.busy_s["prior"] == pytest.approx(8 * 512 / 2000, rel=0.01)
    assert painter.busy_s["decode"] == pytest.approx(8 * 1.5)
    assert sorted(r.ended for r in requests)[-1] == pytest.approx(
        8 * 512 / 2000 + 8 * 1.5, rel=0.01
    )


def test_work_is_conserved():
    """However it is shared out, the stages are busy for what the requests need."""
    workers = [both(4) for _ in range(3)]
    requests = cluster_of(*workers).run(arrivals(TIMES, gap_s=0.3, number=60))
    assert all(r.ended is not None for r in requests)
    painted = sum(worker.busy_s["decode"] for worker in workers)
    assert painted == pytest.approx(60 * 1.5)


def test_workers_that_die_lose_time_and_nothing_else():
    failures = Failures(mean_s=20.0, lease_s=5.0, restart_s=10.0, max_attempts=1000)
    calm = cluster_of(both(2), both(2)).run(arrivals(TIMES, 1.5, 100))
    cluster = cluster_of(both(2), both(2), failures=failures)
    requests = cluster.run(arrivals(TIMES, 1.5, 100))
    assert all(r.ended is not None for r in requests)
    assert cluster.num_lost > 0
    assert sum(r.attempt for r in requests) == 100 + cluster.num_lost
    assert sum(r.ended - r.arrived for r in requests) > sum(r.ended - r.arrived for r in calm)


def test_a_request_that_kills_every_worker_is_given_up():
    failures = Failures(mean_s=0.5, lease_s=1.0, restart_s=1.0, max_attempts=2)
    cluster = cluster_of(both(), failures=failures)
    requests = cluster.run(arrivals(TIMES, number=5))
    assert cluster.num_failed + sum(r.ended is not None for r in requests) == 5
    assert cluster.num_failed > 0


def test_low_priority_waits_behind_normal():
    low = arrivals(TIMES, number=1, priority="low")
    normal = (Request(10 + i, 0.001, "normal", "b", TIMES) for i in range(5))
    busy = Request(99, 0.0, "normal", "c", TIMES)
    requests = cluster_of(both()).run(iter([busy, *low, *normal]))
    ended = sorted(requests, key=lambda r: r.ended)
    assert [r.priority for r in ended] == ["normal"] * 6 + ["low"]
