"""The engine against each request alone, aborts at any point, and failures that stay at home."""

import dataclasses
import gc
import random
import weakref

import numpy as np
import pytest
import torch

from glmimage import pipeline as pipeline_module
from glmimage import token_loop as token_loop_module
from glmimage.engine.engine import Engine
from glmimage.engine.scheduler import Limits, row_length
from glmimage.errors import GlmImageError, OutOfMemory
from glmimage.picture import make_pictures
from glmimage.pipeline import encode_prompts
from glmimage.stages import Stages
from glmimage.types import (
    DenoiseStep,
    Failed,
    GenerationRequest,
    PictureReady,
    PriorProgress,
    PriorReady,
    Queued,
    SmallGridReady,
)


def drain(engine, events=None, max_steps=5000):
    """Step until nothing is left; return all events."""
    events = [] if events is None else events
    for _ in range(max_steps):
        if not engine.has_work:
            return events
        events += engine.step()
    raise AssertionError("the engine does not come to an end")


def check(events, alone, names):
    """Compare every picture of these requests with what the request makes alone."""
    for name in names:
        mine = [event for event in events if event.request_id == name]
        assert isinstance(mine[0], Queued)
        assert not [event for event in mine if isinstance(event, Failed)]
        priors = {e.image_index: e.prior_token_ids for e in mine if isinstance(e, PriorReady)}
        images = {e.image_index: e.image for e in mine if isinstance(e, PictureReady)}
        assert sorted(priors) == sorted(images) == list(range(len(alone[name])))
        for index, (ids, pixels) in enumerate(alone[name]):
            assert priors[index] == ids
            assert np.abs(np.asarray(images[index], np.int16) - pixels).max() <= 1


def is_empty(engine):
    """Say whether the engine holds nothing of any request."""
    runner = engine.runner
    loop = runner._loop
    slots_free = loop is None or (not loop.rows and len(loop.free_slots) == loop._cache.num_slots)
    rest = runner.pictures or runner._paintings or runner._references[1] is not None
    return slots_free and not rest and not engine.has_work


@pytest.mark.parametrize(
    ("seed", "limits"),
    [
        (0, Limits(num_slots=8, kv_tokens=32768, decode_patches=4096)),
        (1, Limits(num_slots=2, kv_tokens=32768, decode_patches=0)),
        (2, Limits(num_slots=4, kv_tokens=3000, decode_patches=2048)),
    ],
)
def test_any_mix_at_any_time_equals_each_alone(stages, requests, alone, seed, limits):
    """Requests enter in any order after any number of steps, under any limits."""
    random_ = random.Random(seed)
    names = random_.sample(list(requests), len(requests))
    engine, events = Engine(stages, limits), []
    for name in names:
        engine.add_request(requests[name], name)
        for _ in range(random_.choice([0, 1, 20, 150, 300])):
            events += engine.step()
    check(drain(engine, events), alone, names)
    assert is_empty(engine)


def test_rows_of_different_length_and_kind_share_steps(stages, requests):
    engine = Engine(stages)
    engine.add_request(requests["text"], "text")
    for _ in range(40):
        engine.step()
    engine.add_request(requests["mix"], "mix")
    events = [event for _ in range(60) for event in engine.step()]
    counts = {e.request_id: e.num_tokens for e in events if isinstance(e, PriorProgress)}
    assert counts["text"] >= 96
    assert 48 <= counts["mix"] < counts["text"]
    # "mix" came with a longer row than the cache had room for; "text" went on where it was
    engine.abort("mix")
    engine.abort("text")
    assert is_empty(engine)


def test_staged_equals_each_alone(tiny_dir, requests, alone, monkeypatch):
    stages = Stages.load(str(tiny_dir), "cpu", "float32", "staged")
    weights = weakref.WeakSet()

    def watch(name, part):
        load = getattr(stages, name)

        def loading():
            gc.collect()
            assert not list(weights), "the other stage is still in memory"
            stage = load()
            weights.add(getattr(stage, part))
            return stage

        monkeypatch.setattr(stages, name, loading)

    watch("_load_prior", "prior")
    watch("_load_decode", "dit")
    engine = Engine(stages, Limits(num_slots=2, resident=False))
    for name in ("edit", "pair", "mix"):
        engine.add_request(requests[name], name)
    check(drain(engine), alone, ("edit", "pair", "mix"))
    assert is_empty(engine)


def test_a_request_that_brings_its_priors_is_only_painted(stages, requests, alone):
    engine = Engine(stages)
    priors = [PriorReady("text", 0, (16, 16), alone["text"][0][0])]
    engine.add_request(requests["text"], "text", priors)
    events = drain(engine)
    assert [type(event) for event in events] == [
        Queued,
        PriorReady,
        DenoiseStep,
        DenoiseStep,
        PictureReady,
    ]
    check(events, alone, ["text"])


def test_an_id_is_made_up_and_not_taken_twice(stages, requests):
    engine = Engine(stages)
    first, second = (engine.add_request(requests["edit"]) for _ in range(2))
    assert first != second
    with pytest.raises(ValueError, match="already"):
        engine.add_request(requests["edit"], first)
    assert engine.abort(first)
    assert not engine.abort(first)
    assert engine.abort(second)
    assert engine.step() == []


def test_row_length_bounds_what_the_tokeniser_says(stages, requests):
    for name, request in requests.items():
        pictures = make_pictures(name, request)
        encode_prompts(stages.prior(), pictures)
        assert pictures[0].encoded.max_length <= row_length(request)
        assert row_length(request) < 1.5 * pictures[0].encoded.max_length + 400


POINTS = {
    "queued": lambda events: True,
    "first tokens": lambda events: any(isinstance(e, PriorProgress) for e in events),
    "small grid": lambda events: any(isinstance(e, SmallGridReady) for e in events),
    "written": lambda events: any(isinstance(e, PriorReady) for e in events),
    "denoising": lambda events: any(isinstance(e, DenoiseStep) for e in events),
    "between pictures": lambda events: any(isinstance(e, PictureReady) for e in events),
}


@pytest.mark.parametrize("point", POINTS)
def test_an_abort_frees_everything_at_once(stages, requests, monkeypatch, point):
    """Abort at any point: slots, latents and reference caches are gone before the next step."""
    tensors = weakref.WeakSet()

    def watch(module, name):
        make = getattr(module, name)

        def watched(*arguments, **options):
            made = make(*arguments, **options)
            tensors.update(getattr(made, "keys", None) or [made])
            return made

        monkeypatch.setattr(module, name, watched)

    watch(pipeline_module, "euler_step")
    watch(stages.decode().dit, "encode_references")
    source = requests["text"] if point == "small grid" else requests["pair"]
    request = dataclasses.replace(source, num_images=2, num_inference_steps=3)
    engine = Engine(stages)
    engine.add_request(request, "gone")
    pictures = weakref.WeakSet(engine.runner.pictures.values())
    events = []
    while not POINTS[point](events):
        events += engine.step()
    if point in ("denoising", "between pictures"):
        assert tensors
    assert engine.abort("gone")
    events.clear()
    assert is_empty(engine)
    gc.collect()
    assert not list(tensors)
    assert not list(pictures)
    assert engine.step() == []


def test_an_abort_leaves_the_neighbours_alone(stages, requests, alone):
    engine = Engine(stages)
    for name in ("edit", "pair", "mix"):
        engine.add_request(requests[name], name)
    events = engine.step()
    while not any(isinstance(e, PriorProgress) and e.request_id == "pair" for e in events):
        events += engine.step()
    engine.abort("pair")
    drain(engine, events)
    check(events, alone, ("edit", "mix"))
    assert not [e for e in events if e.request_id == "pair" and isinstance(e, PictureReady)]


class Broken(Exception):
    pass


def break_at(monkeypatch, stages, place):
    """Let one place of the machinery fail whenever it works for the request called "bad"."""
    seed = 666

    def fail_when(module, name, is_bad):
        works = getattr(module, name)

        def failing(*arguments, **options):
            if is_bad(*arguments, **options):
                raise Broken(place)
            return works(*arguments, **options)

        monkeypatch.setattr(module, name, failing)

    if place == "prompt":
        fail_when(stages.prior().prompt, "encode", lambda prompt, *rest: prompt == "bad")
    elif place == "stream":
        fail_when(token_loop_module, "RandomStream", lambda given: given == seed)
    elif place == "token":
        # the row of "bad" is known by its temperature
        fail_when(token_loop_module, "sample", lambda logits, heat, *rest: 0.123 in heat)
    elif place == "references":
        fail_when(pipeline_module, "upsample_prior", lambda ids, grid: tuple(grid) == (16, 20))
    elif place == "noise":
        fail_when(pipeline_module, "RandomStream", lambda given: given == seed)
    elif place == "denoise":
        fail_when(
            stages.decode().dit, "velocity", lambda latents, *rest, **o: latents.shape[-1] == 72
        )
    elif place == "decode":
        fail_when(stages.decode().vae, "decode", lambda latents: latents.shape[-1] == 72)


@pytest.mark.parametrize(
    "place", ["prompt", "stream", "token", "references", "noise", "denoise", "decode"]
)
def test_an_error_stays_with_its_request(stages, requests, photo, alone, monkeypatch, place):
    break_at(monkeypatch, stages, place)
    bad = GenerationRequest("bad", 576, 512, 2, 1.5, 666, 1, (photo(640, 512),), temperature=0.123)
    engine = Engine(stages)
    written = [(), ()]
    if place in ("references", "noise", "denoise", "decode"):
        written = [[PriorReady("edit", 0, (17, 16), alone["edit"][0][0])]]
        written += [[PriorReady("bad", 0, (16, 18), (7,) * 288)]]
    engine.add_request(requests["edit"], "edit", written[0])
    engine.add_request(bad, "bad", written[1])
    events = drain(engine)
    check(events, alone, ["edit"])
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.request_id == "bad"
    assert isinstance(failed.error, GlmImageError)
    assert "Broken" in str(failed.error)
    assert "Traceback" in failed.error.__notes__[0]
    assert failed.error.__traceback__ is None
    assert is_empty(engine)


def test_pictures_that_cannot_be_painted_together_are_painted_one_by_one(
    stages, requests, alone, monkeypatch
):
    dit, batches = stages.decode().dit, []
    velocity = dit.velocity

    def small_only(latents, *rest, **options):
        batches.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return velocity(latents, *rest, **options)

    monkeypatch.setattr(dit, "velocity", small_only)
    engine = Engine(stages, Limits(decode_patches=4096))
    priors = [PriorReady("pair", n, (16, 16), ids) for n, (ids, _) in enumerate(alone["pair"])]
    engine.add_request(requests["pair"], "pair", priors)
    check(drain(engine), alone, ["pair"])
    assert batches[0] == 2
    assert is_empty(engine)


def test_no_memory_for_one_request_is_its_own_failure(stages, requests, alone, monkeypatch):
    prior = stages.prior().prior
    forward = prior.forward

    def full(embeds, *rest):
        if embeds.shape[1] > 600:  # only the four references of "mix" are as long
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(embeds, *rest)

    monkeypatch.setattr(prior, "forward", full)
    engine = Engine(stages)
    engine.add_request(requests["mix"], "mix")
    engine.add_request(requests["edit"], "edit")
    events = drain(engine)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.request_id == "mix"
    assert isinstance(failed.error, OutOfMemory)
    # a traceback would keep the frames alive, and their tensors with them
    assert failed.error.__traceback__ is None
    assert failed.error.__cause__ is None
    check(events, alone, ["edit"])
