"""Every value of a request is checked where the request is made."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glmimage import types
from glmimage.errors import InvalidImage, InvalidPrompt, InvalidRequest, InvalidSize
from glmimage.types import SIZE_PRESETS, GenerationRequest, image_seed, parse_size


def test_defaults_are_valid_and_frozen():
    request = GenerationRequest("A sign that says 'OPEN'")
    assert (request.width, request.height, request.num_inference_steps) == (1024, 1024, 30)
    assert request.guidance_scale == 1.5
    assert request.seed is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.width = 512  # type: ignore[misc]


BAD_FIELDS = [
    ({"prompt": ""}, InvalidPrompt, "prompt", "empty"),
    ({"prompt": " \n\t"}, InvalidPrompt, "prompt", "empty"),
    ({"prompt": "x" * 100_000}, InvalidPrompt, "prompt", "100000 characters"),
    ({"prompt": None}, InvalidPrompt, "prompt", "NoneType"),
    ({"prompt": "broken \udcff byte"}, InvalidPrompt, "prompt", "UTF-8"),
    ({"width": 1000}, InvalidSize, "width", "992 and 1024"),
    ({"height": 1000}, InvalidSize, "height", "multiple of 32"),
    ({"width": 480}, InvalidSize, "width", "between 512 and 2048"),
    ({"height": 2080}, InvalidSize, "height", "between 512 and 2048"),
    ({"height": -512}, InvalidSize, "height", "-512"),
    ({"width": "512"}, InvalidSize, "width", "whole number"),
    ({"width": 512.0}, InvalidSize, "width", "whole number"),
    ({"num_inference_steps": 0}, InvalidRequest, "num_inference_steps", "between 1 and 100"),
    ({"num_inference_steps": 101}, InvalidRequest, "num_inference_steps", "101"),
    ({"num_inference_steps": 2.5}, InvalidRequest, "num_inference_steps", "2.5"),
    ({"num_inference_steps": True}, InvalidRequest, "num_inference_steps", "whole number"),
    ({"guidance_scale": 0.9}, InvalidRequest, "guidance_scale", "between 1 and 10"),
    ({"guidance_scale": 10.01}, InvalidRequest, "guidance_scale", "10.01"),
    ({"guidance_scale": math.nan}, InvalidRequest, "guidance_scale", "a number"),
    ({"guidance_scale": math.inf}, InvalidRequest, "guidance_scale", "inf"),
    ({"guidance_scale": "1.5"}, InvalidRequest, "guidance_scale", "a number"),
    ({"seed": -1}, InvalidRequest, "seed", "-1"),
    ({"seed": 2**63}, InvalidRequest, "seed", "between 0 and"),
    ({"seed": 1.0}, InvalidRequest, "seed", "whole number"),
    ({"num_images": 0}, InvalidRequest, "num_images", "between 1 and 4"),
    ({"num_images": 5}, InvalidRequest, "num_images", "5"),
    ({"temperature": 0.0}, InvalidRequest, "temperature", "above 0"),
    ({"temperature": 2.1}, InvalidRequest, "temperature", "at most 2"),
    ({"top_p": 0}, InvalidRequest, "top_p", "above 0"),
    ({"top_p": 1.1}, InvalidRequest, "top_p", "at most 1"),
    ({"source_images": "photo.jpg"}, InvalidRequest, "source_images", "str"),
    ({"source_images": ["photo.jpg"]}, InvalidImage, "source_images", "PIL image"),
    ({"source_images": [Image.new("RGB", (64, 64))] * 5}, InvalidRequest, "source_images", "5"),
    ({"source_images": [Image.new("RGB", (64, 320))]}, InvalidImage, "source_images", "5.0:1"),
    ({"source_images": [Image.new("RGB", (31, 64))]}, InvalidImage, "source_images", "31x64"),
    ({"source_images": [Image.new("1", (8064, 8064))]}, InvalidImage, "source_images", "64 mega"),
]


@pytest.mark.parametrize(("fields", "kind", "field", "says"), BAD_FIELDS)
def test_bad_field_is_named(fields, kind, field, says):
    with pytest.raises(kind) as caught:
        GenerationRequest(**{"prompt": "A poster", **fields})
    assert type(caught.value) is kind
    assert caught.value.field == field
    assert says in str(caught.value) + caught.value.hint
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@given(width=st.integers(-10, 5000), height=st.integers(-10, 5000))
def test_a_size_is_accepted_exactly_when_the_model_can_paint_it(width, height):
    paintable = all(512 <= side <= 2048 and side % 32 == 0 for side in (width, height))
    if paintable:
        assert types.check_size(width, height) == (width, height)
    else:
        with pytest.raises(InvalidSize):
            types.check_size(width, height)


@given(st.integers(16, 64), st.integers(16, 64))
def test_written_sizes_are_read_back(columns, rows):
    assert parse_size(f"{columns * 32}x{rows * 32}") == (columns * 32, rows * 32)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_sentence(text):
    try:
        size = parse_size(text)
    except InvalidSize:
        return
    assert types.check_size(*size) == size


@pytest.mark.parametrize("text", ["", "x", "512x", "x512", "512", "big", "1_024x1024", "²x512"])
def test_unreadable_size_lists_the_presets(text):
    with pytest.raises(InvalidSize, match="Unknown size") as caught:
        parse_size(text)
    assert "landscape_16_9" in caught.value.hint


def test_every_preset_is_paintable():
    for width, height in SIZE_PRESETS.values():
        assert GenerationRequest("A poster", width=width, height=height).width == width


def test_numpy_whole_numbers_become_ints():
    request = GenerationRequest("A poster", width=np.int64(512), seed=np.uint32(7))
    assert type(request.width) is int
    assert type(request.seed) is int


def test_seeded_keeps_a_seed_and_draws_a_missing_one():
    assert GenerationRequest("A poster", seed=0).seeded().seed == 0
    request = GenerationRequest("A poster", source_images=[Image.new("RGB", (64, 64))])
    assert request.seeded().source_images[0] is request.source_images[0]
    assert request.seed is None
    drawn = {GenerationRequest("A poster").seeded().seed for _ in range(5)}
    assert len(drawn) == 5
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_first_picture_has_the_seed_of_the_request_and_golden_values_hold():
    assert [image_seed(7, index) for index in range(4)] == [
        7,
        3511274219185729,
        151215513962380,
        8113330931062309,
    ]


@given(st.integers(0, types.MAX_SEED))
def test_seeds_of_one_request_differ_and_are_requestable(seed):
    seeds = [image_seed(seed, index) for index in range(types.MAX_IMAGES)]
    assert len(set(seeds)) == types.MAX_IMAGES
    for one in seeds:
        assert GenerationRequest("A poster", seed=one).seed == one


def test_neighbouring_seeds_do_not_share_pictures():
    seeds = [image_seed(seed, index) for seed in range(500) for index in range(types.MAX_IMAGES)]
    assert len(set(seeds)) == len(seeds)
