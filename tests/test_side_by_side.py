"""Two computations at once on two threads: same results, and every thread keeps its count."""

import dataclasses
import os
import threading

import numpy as np
import pytest
import torch

from glmimage import Pipeline
from glmimage.side_by_side import side_by_side


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def told():
    return threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()


def test_two_threads_compute_alone_and_at_once(threads):
    threads(2)
    both = threading.Barrier(2, timeout=10)
    with torch.inference_mode(), side_by_side(True) as run:
        assert torch.get_num_threads() == 1
        one, other = run(lambda: (both.wait(), told())[1], lambda: (both.wait(), told())[1])
    assert torch.get_num_threads() == 2
    assert one[0] == threading.get_ident() != other[0]
    assert one[1:] == other[1:] == (1, True)
    started = []
    thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started == [2]  # a thread that is new has what the process was told


@pytest.mark.parametrize(("count", "wanted"), [(1, True), (4, True), (2, False)])
def test_else_one_comes_after_the_other_with_all_threads(threads, count, wanted):
    threads(count)
    calls = []
    with side_by_side(wanted) as run:
        one, other = run(lambda: calls.append(1) or told(), lambda: calls.append(2) or told())
    assert calls == [1, 2]
    assert one == other == (threading.get_ident(), count, False)


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_arrives_when_the_other_has_ended(threads, which):
    threads(2)
    ended, go = [], threading.Event()

    def fails():
        go.set()
        raise MemoryError("no room")

    def ends():
        go.wait(10)
        ended.append(1)

    calls = [fails, ends] if which == 0 else [ends, fails]
    with pytest.raises(MemoryError, match="no room"), side_by_side(True) as run:
        run(*calls)
    assert ended == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_has_a_thread_of_its_own(threads):
    threads(2)
    with side_by_side(True) as run:
        run(told, told)
    child = os.fork()
    if child == 0:
        with side_by_side(True) as run:
            one, other = run(told, told)
        os._exit(0 if one[0] != other[0] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_picture_is_the_same(tiny_dir, threads):
    threads(2)
    with Pipeline.load(str(tiny_dir), device="cpu", dtype="float32") as pipe:
        stage = pipe.stages.decode()
        assert stage.side_by_side
        painted = []
        for at_once in (True, False):
            pipe.stages.decode = lambda at_once=at_once: dataclasses.replace(
                stage, side_by_side=at_once
            )
            image = pipe.generate(
                "'A'", width=512, height=512, num_inference_steps=2, seed=1
            ).images[0]
            painted.append(np.asarray(image, np.int16))
    assert np.abs(painted[0] - painted[1]).max() <= 1


def test_layers_that_are_streamed_serve_one_pass_at_a_time(tiny_dir, threads):
    threads(2)
    with Pipeline.load(str(tiny_dir), device="cpu", dtype="float32", memory="layered") as pipe:
        assert not pipe.stages.decode().side_by_side
        asked = {"width": 512, "height": 512, "num_inference_steps": 1, "seed": 1}
        assert pipe.generate("'A'", **asked).images
