"""Lossy switches: how they are written, what they save, and that none is on by itself."""

import pytest
import torch

from glmimage.errors import InvalidSettings
from glmimage.loading.quantized import QuantizedLinear
from glmimage.lossy import EXACT, Lossy
from glmimage.model.step_cache import StepCache
from glmimage.picture import make_pictures
from glmimage.pipeline import denoise, encode_prompts, write_priors
from glmimage.stages import Stages
from glmimage.types import GenerationRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", EXACT),
        (" weights=int8 , guidance=0.2-0.6", Lossy("int8", (0.2, 0.6))),
        ("step_cache=0.08", Lossy(step_cache=0.08)),
        ("guidance=0-1,step_cache=0", EXACT),
    ],
)
def test_switches_are_read_and_written(text, expected):
    assert Lossy.parse(text) == expected
    assert Lossy.parse(str(expected)) == expected
    assert (str(expected) == "") == (expected == EXACT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "no lossy switch 'fast'"),
        ("weights=int2", "int8, int4, fp8"),
        ("weights", "must be one of"),
        ("guidance=0.7-0.2", "such as 0-0.6"),
        ("guidance=0-2", "within 0 and 1"),
        ("guidance=half", "needs numbers, not"),
        ("guidance=nan-1", "such as"),
        ("step_cache=x", "needs numbers, not 'x'"),
        ("step_cache=-1", "must be 0 to 1"),
        ("step_cache=0.1,step_cache=0.2", "given twice"),
    ],
)
def test_wrong_switches_are_refused(text, words):
    with pytest.raises(InvalidSettings, match=words):
        Lossy.parse(text)


def test_which_steps_are_guided():
    assert [Lossy(guidance=(0, 0.5)).guides(step, 4) for step in range(4)] == [1, 1, 0, 0]
    assert [Lossy(guidance=(0.25, 1)).guides(step, 4) for step in range(4)] == [0, 1, 1, 1]
    assert all(EXACT.guides(step, 50) for step in range(50))


def paint(tiny_dir, lossy, steps=4):
    """Return the latents, how often the last layer ran, and the stage."""
    stages = Stages.load(str(tiny_dir), "cpu", "float32", "staged", lossy=lossy)
    pictures = make_pictures("0", GenerationRequest("A 'B'", 512, 512, steps, 1.5, seed=4))
    encode_prompts(stages.prior(), pictures)
    list(write_priors(stages.prior(), pictures))
    stage, runs = stages.decode(), []
    stage.dit.blocks[-1].register_forward_hook(lambda *_: runs.append(1))
    *_, latents = denoise(stage, pictures)
    return latents, len(runs), stage


@pytest.fixture(scope="module")
def exact(tiny_dir):
    return paint(tiny_dir, "")


@pytest.mark.parametrize(
    ("lossy", "passes"),
    [("guidance=0-0.5", 6), ("guidance=0-0", 4), ("step_cache=1e-9", 8)],
)
def test_what_the_switches_save(tiny_dir, exact, lossy, passes):
    latents, runs, _ = paint(tiny_dir, lossy)
    assert exact[1] == 8
    assert runs == passes
    if lossy == "step_cache=1e-9":
        assert torch.equal(latents, exact[0])
    else:
        assert 1e-3 < (latents - exact[0]).abs().mean() < 1


def test_a_step_is_skipped_where_little_changes():
    cache, start = StepCache(0.1), torch.zeros(1, 4, 2)
    for step, (added, skipped) in enumerate([(1.0, 0), (1.05, 1), (1.09, 1), (1.2, 0), (1.25, 1)]):
        after = start + added
        repeated = cache.repeat(start, after)
        assert (repeated is not None) == bool(skipped)
        if repeated is None:
            cache.remember(after, after + step)
        else:
            # what the other layers added when they last ran: in step 0, then in step 3
            assert torch.equal(repeated, after + (0 if step < 3 else 3))
    assert cache.num_skipped == 3


@pytest.mark.parametrize("form", ["int8", "int4", "fp8"])
def test_packed_weights_paint_nearly_the_same(tiny_dir, exact, form):
    latents, _, stage = paint(tiny_dir, f"weights={form}")
    assert isinstance(stage.dit.blocks[0].ff_in, QuantizedLinear)
    assert 0 < (latents - exact[0]).abs().mean() < 1.5


def test_packed_weights_are_not_streamed(tiny_dir):
    with pytest.raises(InvalidSettings, match="exclude each other"):
        Stages.load(str(tiny_dir), "cpu", "float32", "layered", lossy="weights=int8")
