"""Every number of the catalogue that a worker tells moves while it paints."""

import mmap
import threading
import time
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
import torch

from glmimage.engine.figures import Figures
from glmimage.memory import gpu_memory
from glmimage.policy.picture_check import PictureChecker
from glmimage.telemetry.catalogue import METRICS
from glmimage.worker.report import Report, resident_bytes

WORKER_METRICS = {metric.name: metric for metric in METRICS if metric.origin == "worker"}
STEPS = 2


def told(service):
    """Return the worker's numbers as its newest heartbeat tells them: {(name, labels): values}."""
    return {
        (name, *labels): values
        for worker in service("live_workers", 0)
        for name, rows in worker.info.get("figures", {}).items()
        for labels, values in rows
    }


def until(service, reached):
    deadline = time.monotonic() + 180
    while not reached(found := told(service)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def rise(before, after, name, *labels):
    """Return how far a counter, or a histogram's number of observations, has come."""
    key = (name, *labels)
    return after[key][-1] - before.get(key, [0.0])[-1]


@pytest.fixture(scope="module")
def moved(service, judge):
    """Paint two pictures together, then the same again from their prior, and one that is flagged;
    return the numbers before, while it worked, and after."""
    before = until(service, lambda found: ("glmimage_jobs_in_hand",) in found)
    job = {"num_images": 2, "prior_key": "a" * 64, "seed": 3}
    first = service.submit(**job, input={"num_inference_steps": 40})
    during = until(service, lambda found: found.get(("glmimage_jobs_in_hand",)) == [1.0])
    service.wait(first)
    service.wait(service.submit(**job))
    judge.score_of_next = 1.0
    service.wait(service.submit(seed=4))
    judge.score_of_next = 0.0

    def settled(found):
        painted = rise(before, found, "glmimage_pictures_total")
        return painted == 5 and found["glmimage_jobs_in_hand",] == [0.0]

    return before, during, until(service, settled)


ROWS = [
    ("glmimage_stage_seconds", "prior"),
    ("glmimage_stage_seconds", "denoise"),
    ("glmimage_stage_seconds", "decode"),
    ("glmimage_stage_seconds", "store"),
    ("glmimage_busy_seconds_total", "prior"),
    ("glmimage_busy_seconds_total", "denoise"),
    ("glmimage_busy_seconds_total", "decode"),
    ("glmimage_pictures_total",),
    ("glmimage_prior_tokens_total",),
    ("glmimage_denoise_steps_total",),
    ("glmimage_batch_size", "prior"),
    ("glmimage_batch_size", "denoise"),
    ("glmimage_acceptance_length",),
    ("glmimage_prior_cache_total", "hit"),
    ("glmimage_prior_cache_total", "miss"),
    ("glmimage_pictures_checked_total",),
    ("glmimage_pictures_flagged_total",),
]
ELSEWHERE = {
    "glmimage_jobs_in_hand",
    "glmimage_worker_memory_bytes",
    "glmimage_gpu_memory_bytes",
}


def test_every_metric_of_a_worker_has_its_test():
    assert WORKER_METRICS.keys() == {name for name, *_ in ROWS} | ELSEWHERE


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_it_moves(moved, row):
    before, _, after = moved
    assert rise(before, after, *row) > 0


def test_the_numbers_are_those_of_the_work(moved):
    before, _, after = moved
    # the second job came with its prior: three pictures were written, five painted
    assert rise(before, after, "glmimage_stage_seconds", "prior") == 3
    assert rise(before, after, "glmimage_stage_seconds", "denoise") == 5
    assert rise(before, after, "glmimage_stage_seconds", "decode") == 5
    assert rise(before, after, "glmimage_stage_seconds", "store") == 3
    assert rise(before, after, "glmimage_prior_cache_total", "hit") == 1
    assert rise(before, after, "glmimage_pictures_flagged_total") == 1
    assert rise(before, after, "glmimage_denoise_steps_total") == 2 * 40 + 2 * STEPS + STEPS
    # 512 px: 256 tokens of the preview, 256 of the picture; the first comes with the prompt
    assert rise(before, after, "glmimage_prior_tokens_total") == 3 * (2 * 256 - 1)
    passes = rise(before, after, "glmimage_acceptance_length")
    assert passes <= rise(before, after, "glmimage_prior_tokens_total")
    # picture by picture on a CPU, so mates share passes of the prior only
    steps = rise(before, after, "glmimage_batch_size", "denoise")
    assert steps == rise(before, after, "glmimage_denoise_steps_total")


def test_what_is_in_hand_is_told(moved):
    before, during, after = moved
    in_hand = [numbers["glmimage_jobs_in_hand",] for numbers in (before, during, after)]
    assert in_hand == [[0.0], [1.0], [0.0]]
    assert after["glmimage_worker_memory_bytes",][0] > 50e6


def test_the_gpu_is_asked_anew_for_every_heartbeat(moved):
    """The worker's own way from its device to the store; what CUDA answers is tested below."""
    # not in the first, told while the model was still being loaded
    found = [{kind: value for (_, kind), (value,) in gpu_rows(told)} for told in moved[1:]]
    for kinds in found:
        assert kinds.keys() == {"total", "free", "reserved", "allocated"}
        assert kinds["free"] + kinds["allocated"] == kinds["total"]
    assert found[0]["allocated"] != found[1]["allocated"]


def gpu_rows(numbers):
    return [row for row in numbers.items() if row[0][0] == "glmimage_gpu_memory_bytes"]


def test_main_memory_is_measured():
    before = resident_bytes()
    # not from the allocator, which may hand out again what it has kept
    with mmap.mmap(-1, 64 * 2**20) as block:
        block[::4096] = b"x" * len(block[::4096])
        assert resident_bytes() - before > 48 * 2**20


def test_memory_of_a_gpu_is_told_where_there_is_one(monkeypatch):
    report = Report(PictureChecker(0.5, object()))
    assert report.snapshot(0)["glmimage_gpu_memory_bytes"] == []
    assert gpu_memory(torch.device("cpu")) == {}
    held = {"allocated": 1}
    cuda = SimpleNamespace(
        mem_get_info=lambda device: (3, 10),
        memory_reserved=lambda device: 5,
        memory_allocated=lambda device: held["allocated"],
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    report.gpu_memory = lambda: gpu_memory(torch.device("cuda"))
    for held["allocated"] in (1, 4):
        rows = report.snapshot(0)["glmimage_gpu_memory_bytes"]
        found = {labels[0]: value for labels, (value,) in rows}
        assert found == {"total": 10, "free": 3, "reserved": 5, "allocated": held["allocated"]}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_memory_of_a_gpu_moves():
    device = torch.device("cuda")
    before = gpu_memory(device)
    block = torch.zeros(64 * 2**20, dtype=torch.uint8, device=device)
    assert gpu_memory(device)["allocated"] - before["allocated"] == block.numel()


def test_figures_are_counted_from_several_threads():
    """The painting thread adds to them while the heartbeat reads."""
    report, told_by = Report(PictureChecker(0.5, object())), SimpleQueue()

    def work():
        for _ in range(200):
            report.take(Figures(gains={3: 2}, rows={4: 1}, pictures={2: 5}))
        told_by.put("done")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while told_by.qsize() < 4:
        report.snapshot(1)
    figures = report.snapshot(0)
    assert figures["glmimage_prior_tokens_total"] == [([], [4 * 200 * 6.0])]
    assert figures["glmimage_denoise_steps_total"] == [([], [4 * 200 * 10.0])]
    assert figures["glmimage_acceptance_length"][0][1][-1] == 4 * 200 * 2
