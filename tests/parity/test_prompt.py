"""Prompts as the reference reads them: ids, grids, positions, glyph texts, refused input."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.errors import InvalidImage, InvalidPrompt
from glmimage.prompt import PromptEncoder, fill_sources, get_glyph_texts

TARGETS = [(512, 512), (1024, 1024), (512, 2048), (2048, 512), (1024, 576), (544, 1952), (64, 96)]


@pytest.fixture(scope="module")
def prompts(reference):
    return PromptEncoder(reference.processor)


def grey(*sizes):
    return [Image.new("RGB", size, (20 * i, 90, 200)) for i, size in enumerate(sizes, 1)]


def their_inputs(reference, prompt, height, width, images=()):
    content = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    return reference.processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        tokenize=True,
        return_dict=True,
        processor_kwargs={"target_h": height, "target_w": width, "return_tensors": "pt"},
    )


@pytest.mark.parametrize("prompt", ["a cat", "Größe ü 東京 🎨\n\ttwo  lines", "{{ 7 * 7 }} <b> %s"])
def test_text_is_tokenised_as_the_reference_does(reference, prompts, prompt):
    ours, theirs = prompts.encode(prompt, 512, 1024), their_inputs(reference, prompt, 512, 1024)
    assert torch.equal(ours.input_ids, theirs["input_ids"][0])
    written = reference.processor.tokenizer.decode(ours.input_ids)
    assert written == f"{prompt}<grid>16 32</grid><grid>11 22</grid><|image_start|>"


@pytest.mark.parametrize(("height", "width"), TARGETS)
def test_positions_of_any_size(reference, prompts, height, width):
    encoder = reference.vision_language_encoder
    for images in ([], grey((512, 512)), grey((512, 512), (400, 1600), (900, 600), (620, 620))):
        ours = prompts.encode("hello", height, width, images)
        theirs = their_inputs(reference, "hello", height, width, images)
        assert torch.equal(ours.input_ids, theirs["input_ids"][0])
        # the reference asks for positions once the placeholders are filled; any code will do
        codes = [torch.full((h * w,), 7) for h, w in ours.source_grids]
        filled = fill_sources(ours, codes)
        positions, _ = encoder.model.get_rope_index(
            filled.input_ids[None],
            image_grid_thw=theirs["image_grid_thw"],
            images_per_sample=theirs["images_per_sample"],
            attention_mask=theirs["attention_mask"],
        )
        assert torch.equal(ours.position_ids, positions[:, 0])
        decode = encoder.model._cached_decode_position_ids[0]
        assert torch.equal(ours.decode_position_ids, decode[:, :-1])
        if images:
            assert torch.equal(ours.pixel_values, theirs["pixel_values"])
            assert torch.equal(ours.source_grid_thw, theirs["image_grid_thw"][: len(images)])


def test_the_small_grid_comes_first(prompts):
    """By hand, for 128 x 64 px: a 22 x 11 preview, then 4 x 2 tokens from where it ends."""
    inputs = prompts.encode("hi", 128, 64)
    start = len(inputs.input_ids)
    assert (inputs.small_grid, inputs.large_grid) == ((22, 11), (4, 2))
    assert (inputs.num_small, inputs.num_tokens) == (242, 250)
    assert inputs.max_length == start + 249
    positions = inputs.decode_position_ids - start
    assert positions[:, :12].tolist() == [[0] * 12, [0] * 11 + [1], [*range(11), 0]]
    assert positions[:, 241].tolist() == [0, 21, 10]
    assert positions[:, 242:].tolist() == [
        [22] * 8,
        [22, 22, 23, 23, 24, 24, 25, 25],
        [22, 23] * 4,
    ]
    written = torch.arange(250)
    assert inputs.large_tokens(written).tolist() == list(range(242, 250))
    assert inputs.large_tokens(written.expand(3, -1)).shape == (3, 8)


def test_with_references_there_is_no_preview(prompts):
    inputs = prompts.encode("hi", 96, 64, grey((512, 512)))
    assert inputs.small_grid is None
    assert inputs.num_small == 0
    assert (inputs.large_grid, inputs.num_tokens) == ((3, 2), 6)
    # start marker, 16 x 16 tokens that take 16 positions, end marker ...
    assert inputs.position_ids[:, 0].tolist() == [0, 0, 0]
    assert inputs.position_ids[:, 1].tolist() == [1, 1, 1]
    assert inputs.position_ids[:, 256].tolist() == [1, 16, 16]
    assert inputs.position_ids[:, 257].tolist() == [17, 17, 17]
    text = len(inputs.input_ids) - 257
    assert inputs.decode_position_ids[:, 0].tolist() == [17 + text] * 3


def test_prior_tokens_of_references_take_their_places(prompts):
    inputs = prompts.encode("hi", 64, 64, grey((512, 512), (512, 640)))
    placeholder = inputs.image_token_id
    codes = [torch.arange(256) % 250, torch.arange(320) % 249]
    filled = fill_sources(inputs, codes)
    assert not (filled.input_ids == placeholder).any()
    where = inputs.input_ids == placeholder
    assert torch.equal(filled.input_ids[where], torch.cat(codes))
    assert torch.equal(filled.input_ids[~where], inputs.input_ids[~where])
    assert where.any()  # what was handed in is unchanged
    with pytest.raises(ValueError, match=r"\[256, 320\] prior tokens were given \[320, 256\]"):
        fill_sources(inputs, codes[::-1])
    text_only = prompts.encode("hi", 64, 64)
    assert fill_sources(text_only, []) is text_only


QUOTED = [
    "no quotes at all",
    "says 'OPEN' and 'CLOSED'",
    "a \"double\" and a 'single' one",
    "“curly” before 'single', 「角」 and \"straight\"",
    "it's one apostrophe, it's two",
    "「外「内」外」 “a “b” c” '' \"\"",
    "new\nline 'across\nlines'",
]


@pytest.mark.parametrize("prompt", QUOTED)
def test_glyph_texts(reference, prompt):
    assert get_glyph_texts(prompt) == reference.get_glyph_texts(prompt)[0]


def test_glyph_texts_come_in_the_order_of_the_kinds_of_quotes():
    assert get_glyph_texts("「4」 \"3\" “2” '1' 'one'") == ["1", "one", "2", "3", "4"]


@pytest.mark.parametrize("marker", ["<|image|>", "<|image_start|>", "<|image_end|>", "<grid>"])
def test_the_models_own_markers_are_refused(prompts, marker):
    """Taken as text they would become the marker itself, and shift everything after them."""
    with pytest.raises(InvalidPrompt, match=r"reserves for itself") as caught:
        prompts.encode(f"a {marker} b", 64, 64, grey((512, 512)))
    assert marker in str(caught.value)


@pytest.mark.parametrize("size", [(512, 2049), (3000, 700), (16, 65)])
def test_a_reference_beyond_four_to_one_is_refused(prompts, size):
    with pytest.raises(InvalidImage, match=rf"Reference image 2 is {size[0]}x{size[1]} px"):
        prompts.encode("x", 64, 64, [*grey((512, 512)), *grey(size)])


@pytest.mark.parametrize("size", [(512, 2048), (2800, 700), (16, 64), (17, 68), (513, 2052)])
def test_a_reference_of_four_to_one_is_read(prompts, size):
    ((height, width),) = prompts.encode("x", 64, 64, grey(size)).source_grids
    assert min(height, width) >= 15
    assert max(height, width) <= 64


def test_a_reference_smaller_than_a_patch_is_refused(prompts):
    with pytest.raises(InvalidImage, match=r"1 is 20x15 px; both sides must have at least 16 px"):
        prompts.encode("x", 64, 64, grey((20, 15)))


def test_references_of_any_mode(prompts):
    """Grey, palette and transparent pictures are read like their RGB selves."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for mode in ("L", "P", "RGBA"):
        image = rgb.convert(mode)
        found = prompts.encode("x", 64, 64, [image]).pixel_values
        expected = prompts.encode("x", 64, 64, [image.convert("RGB")]).pixel_values
        assert torch.equal(found, expected), mode
