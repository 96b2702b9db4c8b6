"""The pipeline: events in order, seeds, images, references, memory modes."""

import dataclasses
import gc
import hashlib
import random
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage import pipeline as pipeline_module
from glmimage.errors import InvalidSize, OutOfMemory
from glmimage.picture import make_pictures
from glmimage.pipeline import Pipeline, encode_prompts, generate, write_priors
from glmimage.stages import Stages
from glmimage.types import (
    DenoiseStep,
    GenerationRequest,
    PictureReady,
    PriorProgress,
    PriorReady,
    Queued,
    SmallGridReady,
    image_seed,
)


def photo(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


QUICK = {"width": 512, "height": 512, "num_inference_steps": 1}
"""With a reference there is no preview: half of the tokens."""
EDIT = QUICK | {"source_images": (photo(512, 512),)}


@pytest.fixture(scope="module")
def pipe(tiny_dir):
    torch.set_num_threads(1)
    return Pipeline.load(str(tiny_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def four(pipe):
    """Make four pictures of one request, once."""
    return pipe.generate("Four 'signs'", seed=5, num_images=4, **EDIT)


def pixels(image):
    return np.asarray(image).tobytes()


def test_events_tell_the_whole_story_in_order(pipe):
    events = list(pipe.stream("A sign 'A'", width=544, height=512, num_inference_steps=3, seed=1))
    kinds = list(dict.fromkeys(type(event) for event in events))
    assert kinds == [Queued, PriorProgress, SmallGridReady, PriorReady, DenoiseStep, PictureReady]
    by_kind = {kind: [event for event in events if type(event) is kind] for kind in kinds}
    counts = [(event.num_tokens, event.total_tokens) for event in by_kind[PriorProgress]]
    total = 15 * 16 + 17 * 16
    assert counts == [(n, total) for n in range(16, total + 1, 16)]
    (small,), (large,) = by_kind[SmallGridReady], by_kind[PriorReady]
    assert small.grid == (15, 16)
    assert len(small.prior_token_ids) == 15 * 16
    assert large.large_grid == (16, 17)
    assert len(large.prior_token_ids) == 16 * 17
    steps = [(event.step, event.num_inference_steps) for event in by_kind[DenoiseStep]]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    (ready,) = by_kind[PictureReady]
    assert ready.image.size == (544, 512)
    assert ready.image.mode == "RGB"
    assert ready.seed == ready.image.info["seed"] == 1
    assert ready.timings.keys() == {"prior_s", "denoise_s", "decode_s"}
    assert min(ready.timings.values()) > 0


def test_the_result_holds_what_the_events_said(four):
    assert [image.size for image in four.images] == [(512, 512)] * 4
    assert list(four.seeds) == [image.info["seed"] for image in four.images]
    assert four.seeds == tuple(image_seed(5, index) for index in range(4))
    assert [len(ids) for ids in four.prior_token_ids] == [256] * 4
    stages_s = sum(four.timings[name] for name in ("prior_s", "denoise_s", "decode_s"))
    assert 0.5 * four.timings["total_s"] < stages_s <= four.timings["total_s"]


def test_the_images_of_a_request_differ_pairwise(four):
    assert len(set(four.prior_token_ids)) == 4
    assert len({pixels(image) for image in four.images}) == 4


def test_an_image_does_not_depend_on_how_many_were_asked_for(pipe, four):
    two = pipe.generate("Four 'signs'", seed=5, num_images=2, **EDIT)
    assert two.prior_token_ids == four.prior_token_ids[:2]
    assert [pixels(image) for image in two.images] == [pixels(i) for i in four.images[:2]]


def test_an_image_can_be_made_again_from_its_own_seed(pipe, four):
    again = pipe.generate("Four 'signs'", seed=four.seeds[2], **EDIT)
    assert pixels(again.images[0]) == pixels(four.images[2])


def test_a_random_seed_is_drawn_and_reported(pipe):
    first = pipe.generate("Any", **EDIT)
    second = pipe.generate("Any", **EDIT)
    assert first.seeds != second.seeds
    assert pixels(first.images[0]) != pixels(second.images[0])
    assert pixels(pipe.generate("Any", seed=first.seeds[0], **EDIT).images[0]) == pixels(
        first.images[0]
    )


def test_another_process_makes_the_same_picture(pipe, tiny_dir):
    code = (
        "import sys, hashlib, torch; torch.set_num_threads(1)\n"
        "from glmimage import Pipeline\n"
        "torch.manual_seed(99)\n"
        "pipe = Pipeline.load(sys.argv[1], device='cpu', dtype='float32')\n"
        "made = pipe.generate('A red \"sign\"', width=512, height=512,"
        " num_inference_steps=1, seed=11, num_images=2)\n"
        "for image in made.images: print(hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_dir)], capture_output=True, text=True, check=True
    )
    made = pipe.generate(
        'A red "sign"', width=512, height=512, num_inference_steps=1, seed=11, num_images=2
    )
    here = [hashlib.sha256(image.tobytes()).hexdigest() for image in made.images]
    assert done.stdout.split() == here


def test_global_random_state_is_neither_read_nor_written(pipe):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        states.append(pixels(pipe.generate("Still", seed=3, **EDIT).images[0]))
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert torch.equal(before[0], after[0])
        assert (before[1] == after[1]).all()
        assert before[2] == after[2]
    assert states[0] == states[1]


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 3), (1.01, 6)])
def test_without_guidance_there_is_no_unconditional_pass(pipe, monkeypatch, guidance, passes):
    calls = []
    dit = pipe.stages.decode().dit
    velocity = dit.velocity
    monkeypatch.setattr(dit, "velocity", lambda *a, **k: calls.append(1) or velocity(*a, **k))
    pictures = with_prior("x", GenerationRequest("Plain", 512, 512, 3, guidance, seed=0))
    list(generate(pipe.stages, pictures))
    assert len(calls) == passes


def with_prior(request_id, request):
    pictures = make_pictures(request_id, request)
    grid = request.height // 32, request.width // 32
    for picture in pictures:
        picture.prior = PriorReady(*picture.key, grid, tuple(range(grid[0])) * grid[1])
    return pictures


def test_references_are_encoded_once_a_request(pipe, monkeypatch):
    calls = []
    dit, vision = pipe.stages.decode().dit, pipe.stages.prior().vision
    encode, tokenise = dit.encode_references, vision.forward
    monkeypatch.setattr(dit, "encode_references", lambda *a: calls.append("decoder") or encode(*a))
    monkeypatch.setattr(vision, "forward", lambda *a: calls.append("prior") or tokenise(*a))
    request = GenerationRequest("Mix", seed=1, num_images=3, **EDIT)
    list(generate(pipe.stages, with_prior("x", request)))
    assert calls == ["prior", "decoder"]


@pytest.mark.parametrize("size", [(4000, 1000), (500, 2000), (32, 100), (333, 517)])
def test_references_of_any_size_and_aspect_up_to_four(pipe, size):
    request = GenerationRequest("Edit", seed=1, **(QUICK | {"source_images": (photo(*size),)}))
    pictures = with_prior("x", request)
    (ready,) = [e for e in generate(pipe.stages, pictures) if isinstance(e, PictureReady)]
    height, width = pictures[0].inputs.source_grids[0]
    assert abs(np.log((width / height) / (size[0] / size[1]))) < 0.15
    assert ready.image.size == (512, 512)


def test_a_reference_changes_the_picture(pipe):
    made = {
        pixels(ready.image)
        for seed in (1, 2)
        for ready in generate(
            pipe.stages,
            with_prior(
                "x",
                GenerationRequest(
                    "Edit", seed=1, **(QUICK | {"source_images": (photo(512, 512, seed),)})
                ),
            ),
        )
        if isinstance(ready, PictureReady)
    }
    assert len(made) == 2


def test_a_picture_that_brings_its_prior_skips_the_prior_stage(pipe, monkeypatch):
    def refuse():
        raise AssertionError("the prior stage was asked for")

    monkeypatch.setattr(pipe.stages, "prior", refuse)
    pictures = with_prior("x", GenerationRequest("Plain", seed=0, **QUICK))
    assert isinstance(list(generate(pipe.stages, pictures))[-1], PictureReady)


def test_painting_from_a_stored_prior_gives_the_same_picture(pipe, four):
    request = GenerationRequest("Four 'signs'", seed=5, num_images=4, **EDIT)
    pictures = make_pictures("x", request)
    pictures[3].prior = PriorReady("x", 3, (16, 16), four.prior_token_ids[3])
    ready = [e for e in generate(pipe.stages, pictures[3:]) if isinstance(e, PictureReady)]
    assert pixels(ready[0].image) == pixels(four.images[3])


MIXED = (
    GenerationRequest("One 'a'", 512, 512, 1, 1.5, seed=1),
    GenerationRequest(
        "Two", 640, 512, 1, 1.0, seed=2, num_images=2, source_images=(photo(512, 600),)
    ),
    GenerationRequest("Three 'c' and 'd'", 512, 576, 1, 2.0, seed=3),
)


def run(stages, requests):
    pictures = [p for k, r in enumerate(requests) for p in make_pictures(str(k), r)]
    return {
        (event.request_id, event.image_index): pixels(event.image)
        for event in generate(stages, pictures)
        if isinstance(event, PictureReady)
    }


@pytest.fixture(scope="module")
def mixed_alone(pipe):
    alone = {}
    for index, request in enumerate(MIXED):
        made = run(pipe.stages, [request])
        alone |= {(str(index), image): value for (_, image), value in made.items()}
    return alone


def test_a_batch_of_mixed_requests_equals_each_alone(pipe, mixed_alone):
    assert run(pipe.stages, MIXED) == mixed_alone


@pytest.mark.parametrize(("num_slots", "kv_tokens"), [(2, 32768), (8, 1500)])
def test_few_rows_and_little_room_change_no_token(pipe, num_slots, kv_tokens):
    stage, priors = pipe.stages.prior(), []
    for limits in ((8, 32768), (num_slots, kv_tokens)):
        pictures = [p for k, r in enumerate(MIXED) for p in make_pictures(str(k), r)]
        encode_prompts(stage, pictures)
        list(write_priors(stage, pictures, *limits))
        priors.append([picture.prior for picture in pictures])
    assert priors[0] == priors[1]


def test_staged_makes_the_same_pictures_with_one_stage_in_memory_at_a_time(tiny_dir, mixed_alone):
    stages = Stages.load(str(tiny_dir), "cpu", "float32", "staged")
    seen = weakref.WeakSet()
    load_prior, load_decode = stages._load_prior, stages._load_decode

    def watched(load, name):
        def loading():
            gc.collect()
            assert not list(seen), "the other stage is still in memory"
            stage = load()
            seen.add(getattr(stage, name))
            return stage

        return loading

    stages._load_prior = watched(load_prior, "prior")
    stages._load_decode = watched(load_decode, "dit")
    assert run(stages, MIXED) == mixed_alone
    assert run(stages, MIXED[:1])["0", 0] == mixed_alone["0", 0]
    assert len(seen) == 1
    stages.close()
    gc.collect()
    assert not seen


def test_leaving_the_loop_early_frees_everything(pipe, monkeypatch):
    latents = weakref.WeakSet()
    step = pipeline_module.euler_step

    def watched(*arguments):
        moved = step(*arguments)
        latents.add(moved)
        return moved

    monkeypatch.setattr(pipeline_module, "euler_step", watched)
    stream = pipe.stream("Edit", seed=1, **(EDIT | {"num_inference_steps": 3}))
    for event in stream:
        if isinstance(event, DenoiseStep):
            break
    assert len(latents) == 1
    stream.close()
    gc.collect()
    assert not latents


def test_a_wrong_request_is_refused_before_any_work(pipe):
    with pytest.raises(InvalidSize):
        pipe.stream("A sign", width=500)
    with pytest.raises(TypeError):
        pipe.stream("A sign", hight=512)
    with pytest.raises(TypeError, match="either"):
        pipe.stream(GenerationRequest("A sign"), width=512)


def test_no_memory_is_said_in_one_sentence(pipe, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(pipe.stages.prior().prior, "forward", full)
    with pytest.raises(OutOfMemory, match=r"^The device ran out of memory\.$"):
        pipe.generate("A sign", **QUICK)


def test_large_pictures_go_through_the_vae_in_tiles_only_when_the_plan_says_so(pipe, monkeypatch):
    vae = pipe.stages.decode().vae
    tiled = []
    decode = vae.decode
    monkeypatch.setattr(
        vae, "decode", lambda one: tiled.append(vae.autoencoder.use_tiling) or decode(one)
    )
    (picture,) = with_prior("x", GenerationRequest("Plain", seed=0, **QUICK))
    stage = pipe.stages.decode()
    for limit in (512 * 512, 512 * 512 - 1, 2048 * 2048):
        small = dataclasses.replace(stage, vae_pixels=limit)
        list(pipeline_module.paint(small, [picture]))
    assert tiled == [False, True, False]


def test_closing_releases_the_model(tiny_dir):
    with Pipeline.load(str(tiny_dir), device="cpu", dtype="float32") as pipe:
        model = weakref.ref(pipe.stages.prior().prior)
        assert model() is not None
    gc.collect()
    assert model() is None


def test_loading_is_reported_whenever_it_happens(tiny_dir):
    told = []
    stages = Stages.load(
        str(tiny_dir), "cpu", "float32", "staged", lambda what, done, total: told.append(what)
    )
    assert not told
    stages.prior()
    assert set(told) == {"vision", "prior"}
    stages.decode()
    assert set(told) == {"vision", "prior", "glyph", "dit", "vae"}


def test_a_small_prior_begins_in_one_thread(pipe, monkeypatch):
    """Short operations shared between threads crawl when the machine is busy; see ThreadChoice."""
    packed, threads = pipe.stages.prior().packed, set()
    logits = packed.logits

    def watched(*arguments):
        threads.add(torch.get_num_threads())
        return logits(*arguments)

    monkeypatch.setattr(packed, "logits", watched)
    torch.set_num_threads(2)
    try:
        stream = pipe.stream("A sign", seed=0, **QUICK)
        assert isinstance([next(stream) for _ in range(2)][1], PriorProgress)
        stream.close()
        assert threads == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
