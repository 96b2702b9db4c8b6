"""Pictures with adapters: chosen per request, and never anybody else's."""

import dataclasses

import numpy as np
import pytest
import torch

from glmimage import GenerationRequest, Lora
from glmimage.engine.engine import Engine
from glmimage.errors import InvalidLora
from glmimage.picture import make_pictures
from glmimage.pipeline import encode_prompts, generate, write_priors
from glmimage.stages import KEPT_ADAPTED, Stages
from glmimage.token_loop import TokenLoop
from glmimage.types import Failed, PictureReady

SQUARE = {"width": 512, "height": 512, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def stages(tiny_dir):
    torch.set_num_threads(1)
    return Stages.load(str(tiny_dir), "cpu", "float32")


@pytest.fixture(scope="module", params=["one by one", "windows"])
def prior_stage(request, stages):
    """Give the stage as a large model has it, and as a small one on a CPU has it."""
    stage = stages.prior()
    if request.param == "one by one":
        return dataclasses.replace(stage, packed=None)
    if stage.packed is None:
        pytest.skip("this processor does not multiply packed weights")
    return stage


def paint(stages, **changes):
    request = GenerationRequest("A sign 'OPEN'", seed=1, **SQUARE | changes)
    pictures = make_pictures("0", request)
    images = [e.image for e in generate(stages, pictures) if isinstance(e, PictureReady)]
    return pictures[0].prior.prior_token_ids, np.asarray(images[0], np.int16)


def same(one, other):
    return one[0] == other[0] and np.array_equal(one[1], other[1])


@pytest.fixture(scope="module")
def plain(stages):
    return paint(stages)


def test_adapters_of_either_part_and_of_both(stages, plain, adapters):
    both, painted, written = (
        paint(stages, loras=[Lora(str(adapters / name))]) for name in ("both", "painted", "written")
    )
    assert painted[0] == plain[0]
    assert not np.array_equal(painted[1], plain[1])
    assert written[0] != plain[0]
    assert both[0] not in (plain[0], written[0])
    added = paint(stages, loras=[Lora(str(adapters / "painted")), Lora(str(adapters / "written"))])
    assert added[0] == written[0]
    assert not np.array_equal(added[1], written[1])


def test_without_adapters_everything_is_as_before(stages, plain, adapters):
    """The model is not touched by those who use adapters, and scale 0 is none."""
    style = str(adapters / "both")
    assert not same(paint(stages, loras=[Lora(style)]), plain)
    assert same(paint(stages), plain)
    assert same(paint(stages, loras=[Lora(style, 0.0)]), plain)
    fresh = Stages.load(str(stages.checkpoint.path), "cpu", "float32")
    assert same(paint(fresh), plain)


def write(stage, pictures):
    list(write_priors(stage, pictures))
    return {picture.request_id: picture.prior.prior_token_ids for picture in pictures}


def test_priors_in_one_batch_are_as_each_alone(prior_stage, adapters):
    styles = {
        "none": (),
        "both": (Lora(str(adapters / "both")),),
        "half": (Lora(str(adapters / "both"), 0.5),),
        "written": (Lora(str(adapters / "written")),),
        "none too": (),
    }

    def pictures(names):
        made = []
        for name in names:
            request = GenerationRequest(
                f"A sign '{name}'", seed=len(name), loras=styles[name], **SQUARE
            )
            made += make_pictures(name, request)
        encode_prompts(prior_stage, made)
        return made

    together = write(prior_stage, pictures(styles))
    alone = {}
    for name in styles:
        alone |= write(prior_stage, pictures([name]))
    assert together == alone
    assert len(set(together.values())) == len(styles)


def test_a_failing_pass_takes_nothing_back_from_nobody(prior_stage, adapters, monkeypatch):
    """The pass of one set of adapters fails once: all rows are as if nothing had been tried."""
    requests = [
        GenerationRequest(f"A sign '{name}'", seed=1, loras=loras, **SQUARE)
        for name, loras in (("a", ()), ("b", (Lora(str(adapters / "both")),)))
    ]

    def pictures():
        made = [p for i, one in enumerate(requests) for p in make_pictures(str(i), one)]
        encode_prompts(prior_stage, made)
        return made

    expected = write(prior_stage, pictures())
    write_group, calls = TokenLoop._write, []

    def failing(self, rows):
        calls.append(len(rows))
        if len(calls) % 4 == 2:
            raise MemoryError
        write_group(self, rows)

    monkeypatch.setattr(TokenLoop, "_write", failing)
    loop, made = TokenLoop(prior_stage), pictures()
    for picture in made:
        loop.enter([picture])
    while loop.rows:
        try:
            loop.step()
        except MemoryError:
            continue
    assert {one.request_id: one.prior.prior_token_ids for one in made} == expected


def test_engine_with_many_adapters_at_once_equals_each_alone(stages, adapters):
    choices = [(), ("both", 1.0), ("painted", 0.7), ("written", 1.0), ("both", 0.3)]
    requests = {
        str(number): GenerationRequest(
            "A sign 'OPEN'",
            seed=number,
            loras=[Lora(str(adapters / choice[0]), choice[1])] if choice else (),
            **SQUARE,
        )
        for number, choice in enumerate(choices)
    }
    alone = {}
    for name, request in requests.items():
        (picture,) = make_pictures(name, request)
        alone[name] = [e for e in generate(stages, [picture]) if isinstance(e, PictureReady)][-1]
    engine = Engine(stages)
    for name, request in requests.items():
        engine.add_request(request, name)
    events = []
    while engine.has_work:
        events += engine.step()
    made = {event.request_id: event for event in events if isinstance(event, PictureReady)}
    assert made.keys() == requests.keys()
    for name, event in made.items():
        assert np.array_equal(np.asarray(event.image), np.asarray(alone[name].image))


def test_missing_adapters_fail_their_own_request_only(stages, plain, tmp_path):
    engine = Engine(stages)
    lost = GenerationRequest("Lost", seed=1, loras=[Lora(str(tmp_path / "absent"))], **SQUARE)
    engine.add_request(lost, "lost")
    engine.add_request(GenerationRequest("A sign 'OPEN'", seed=1, **SQUARE), "kept")
    events = []
    while engine.has_work:
        events += engine.step()
    (failure,) = [event for event in events if isinstance(event, Failed)]
    assert failure.request_id == "lost"
    assert isinstance(failure.error, InvalidLora)
    (picture,) = [event for event in events if isinstance(event, PictureReady)]
    assert np.array_equal(np.asarray(picture.image, np.int16), plain[1])


def test_retrained_adapters_are_read_again_and_few_are_kept(stages, adapters, tmp_path):
    import shutil

    style = tmp_path / "style"
    shutil.copytree(adapters / "both", style)
    stage = stages.decode()
    first = stage.adapted([Lora(str(style))])
    assert stage.adapted([Lora(str(style))]) is first
    assert stage.adapted([Lora(str(style), 0.0)]) is stage
    assert stage.adapted([Lora(str(adapters / "written"))]) is stage
    shutil.copytree(adapters / "painted", style, dirs_exist_ok=True)
    assert stage.adapted([Lora(str(style))]) is not first
    for number in range(KEPT_ADAPTED + 2):
        stage.adapted([Lora(str(style), 1 + number / 10)])
    assert len(stage._adapted._kept) == KEPT_ADAPTED


def test_adapted_networks_share_every_weight(stages, adapters):
    dit = stages.decode().dit
    with_adapters = stages.decode().adapted([Lora(str(adapters / "both"))]).dit
    ours = {p.data_ptr() for p in dit.parameters()}
    assert ours <= {p.data_ptr() for p in with_adapters.parameters()}


def test_layers_that_are_read_as_they_run_have_adapters_too(stages, adapters):
    layered = Stages.load(str(stages.checkpoint.path), "cpu", "float32", memory="layered")
    style = [Lora(str(adapters / "both"))]
    assert same(paint(layered, loras=style), paint(stages, loras=style))
    assert same(paint(layered), paint(stages))


def test_packed_weights_have_adapters_too(stages, adapters):
    style = [Lora(str(adapters / "both"))]
    for form in ("int8", "int4"):
        packed = Stages.load(str(stages.checkpoint.path), "cpu", "float32", lossy=f"weights={form}")
        before = paint(packed)
        assert not same(paint(packed, loras=style), before)
        assert same(paint(packed), before)


def test_adapters_count_where_layers_are_compiled(stages, adapters):
    """What was compiled of a layer runs that layer, and never its copy with adapters."""
    dit = stages.checkpoint.load_dit()
    stage = dataclasses.replace(stages.decode(), dit=dit)
    expected = stage.adapted([Lora(str(adapters / "both"))]).dit
    for block in dit.blocks:
        block.compile(backend="eager")
    found = dataclasses.replace(stage, _adapted=type(stage._adapted)()).adapted(
        [Lora(str(adapters / "both"))]
    )
    assert dit.blocks[0]._compiled_call_impl is not None
    assert found.dit.blocks[0]._compiled_call_impl is None
    assert found.dit.blocks[0].qkv.parts[0].scale == expected.blocks[0].qkv.parts[0].scale
