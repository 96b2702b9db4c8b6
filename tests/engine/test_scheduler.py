"""The policy alone: who enters the token loop, who is painted, and that nobody starves."""

import random
import subprocess
import sys

import pytest

from glmimage.engine.scheduler import Job, Limits, Scheduler


def job(name: str, index: int = 0, *, tokens: int = 100, patches: int = 1024) -> Job:
    return Job((name, index), tokens, patches)


def write_all(scheduler: Scheduler) -> None:
    for key in list(scheduler.writing):
        scheduler.prior_written(key)


def test_admits_in_order_of_arrival_up_to_the_slots():
    scheduler = Scheduler(Limits(num_slots=2))
    for name in "abc":
        scheduler.add(job(name))
    assert scheduler.plan().admit == (("a", 0), ("b", 0))
    assert scheduler.plan().admit == ()
    scheduler.prior_written(("b", 0))
    assert scheduler.plan().admit == (("c", 0),)


@pytest.mark.parametrize(
    ("tokens", "admitted"),
    [
        ((100, 100, 100), 3),
        ((100, 200, 100), 1),
        ((200, 100, 100), 1),
        ((100, 150, 90), 2),
        ((900, 1), 1),
    ],
)
def test_rows_times_the_longest_row_stays_within_the_budget(tokens, admitted):
    scheduler = Scheduler(Limits(kv_tokens=300))
    for index, count in enumerate(tokens):
        scheduler.add(job(str(index), tokens=count))
    assert len(scheduler.plan().admit) == admitted


def test_a_long_row_is_not_overtaken():
    scheduler = Scheduler(Limits(kv_tokens=1000))
    scheduler.add(job("first", tokens=300))
    scheduler.add(job("long", tokens=900))
    scheduler.add(job("short", tokens=10))
    assert scheduler.plan().admit == (("first", 0),)
    scheduler.prior_written(("first", 0))
    assert scheduler.plan().admit == (("long", 0),)


def test_pictures_of_one_request_are_painted_together_within_the_budget():
    scheduler = Scheduler(Limits(decode_patches=2048))
    for name, index in (("a", 0), ("b", 0), ("a", 1), ("a", 2)):
        scheduler.add(job(name, index))
    scheduler.plan()
    write_all(scheduler)
    assert scheduler.plan().start == (("a", 0), ("a", 1))
    assert scheduler.plan().start == ()
    for key in list(scheduler.painting):
        scheduler.picture_painted(key)
    assert scheduler.plan().start == (("a", 2),)
    scheduler.picture_painted(("a", 2))
    assert scheduler.plan().start == (("b", 0),)


def test_a_picture_above_the_budget_is_painted_alone():
    scheduler = Scheduler(Limits(decode_patches=1024))
    scheduler.add(job("a", patches=16384))
    scheduler.plan()
    write_all(scheduler)
    assert scheduler.plan().start == (("a", 0),)


def test_a_request_goes_on_before_the_next_begins():
    scheduler = Scheduler(Limits(decode_patches=0))
    for name, index in (("a", 0), ("b", 0), ("a", 1)):
        scheduler.add(job(name, index))
    scheduler.plan()
    write_all(scheduler)
    order = []
    while scheduler.has_work:
        start = scheduler.plan().start
        order += start
        scheduler.picture_painted(*start)
    assert order == [("a", 0), ("a", 1), ("b", 0)]


def test_drop_forgets_a_request_in_every_state():
    scheduler = Scheduler(Limits(num_slots=3, decode_patches=0))
    for index in range(4):
        scheduler.add(job("a", index))
    scheduler.plan()
    scheduler.prior_written(("a", 0))
    scheduler.prior_written(("a", 1))
    scheduler.plan()
    assert scheduler.waiting or scheduler.writing
    assert scheduler.written
    assert scheduler.painting
    scheduler.drop("a")
    assert not scheduler.has_work
    assert "a" not in scheduler


def test_both_stages_get_about_half_of_the_time():
    scheduler = Scheduler(Limits(num_slots=1))
    scheduler.add(job("a"))
    scheduler.add(job("b"))
    assert scheduler.plan().num_prior_tokens == 1
    scheduler.prior_written(("a", 0))
    scheduler.measured("prior", 0.010)
    scheduler.measured("decode", 0.120)
    plan = scheduler.plan()
    assert plan.denoise
    assert plan.num_prior_tokens == 12
    scheduler.measured("decode", 1e9)
    assert scheduler.plan().num_prior_tokens == 64


@pytest.mark.parametrize(("round_s", "rounds"), [(0.5, 1), (0.002, 5), (1e-6, 64)])
def test_short_rounds_are_written_several_in_a_step(round_s, rounds):
    """Each step brings events and messages, which hundreds of them make slow."""
    scheduler = Scheduler(Limits())
    scheduler.add(job("a"))
    assert scheduler.plan().num_prior_tokens == 1
    scheduler.measured("prior", round_s)
    assert scheduler.plan().num_prior_tokens == rounds


def test_staged_writes_then_paints_then_writes_again():
    scheduler = Scheduler(Limits(num_slots=2, resident=False, decode_patches=0))
    for name in "abcd":
        scheduler.add(job(name))
    plan = scheduler.plan()
    assert plan.admit == (("a", 0), ("b", 0))
    assert not plan.denoise
    scheduler.prior_written(("a", 0))
    plan = scheduler.plan()
    assert plan.admit == ()
    assert plan.num_prior_tokens == 1
    assert not plan.denoise
    scheduler.prior_written(("b", 0))
    for name in "ab":
        plan = scheduler.plan()
        assert plan.start == ((name, 0),)
        assert plan.denoise
        assert plan.num_prior_tokens == 0
        assert plan.admit == ()
        scheduler.picture_painted((name, 0))
    assert scheduler.plan().admit == (("c", 0), ("d", 0))


@pytest.mark.parametrize("seed", range(40))
def test_every_picture_is_painted_whatever_arrives(seed):
    """Play random arrivals, sizes and aborts: nobody waits without end."""
    random_ = random.Random(seed)
    limits = Limits(
        random_.randint(1, 4), random_.choice([100, 1000]), 2048, resident=random_.random() < 0.5
    )
    scheduler, left, tokens, painted = Scheduler(limits), 30, {}, set()
    added: set = set()
    aborted: set = set()
    for step in range(20_000):  # noqa: B007
        if left and random_.random() < 0.3:
            left -= 1
            for index in range(random_.randint(1, 4)):
                new = job(f"r{left}", index, tokens=random_.randint(1, 500))
                added.add(new.key)
                scheduler.add(new)
        if random_.random() < 0.01 and scheduler.has_work:
            request_id = next(scheduler.keys())[0]
            scheduler.drop(request_id)
            aborted |= {key for key in added if key[0] == request_id and key not in painted}
        plan = scheduler.plan()
        assert not set(plan.admit) & set(plan.start)
        assert len(scheduler.writing) <= limits.num_slots
        if not limits.resident:
            assert not (scheduler.writing and scheduler.painting)
        assert plan.num_prior_tokens or plan.denoise or not scheduler.has_work
        for key in list(scheduler.writing):
            tokens[key] = tokens.get(key, 0) + plan.num_prior_tokens
            if tokens[key] >= 5:
                scheduler.prior_written(key)
        if plan.denoise and random_.random() < 0.5:
            for key in list(scheduler.painting):
                scheduler.picture_painted(key)
                painted.add(key)
        if not left and not scheduler.has_work:
            break
    assert painted | aborted == added
    assert not painted & aborted
    assert step < 5_000


def test_the_policy_needs_no_torch():
    code = "import sys, glmimage.engine.scheduler; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
