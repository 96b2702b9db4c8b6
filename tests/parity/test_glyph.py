"""Glyph embeddings equal diffusers', quoting and padding rules included."""

import pytest
import torch

from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.glyph import KEPT_ENCODINGS
from glmimage.prompt import get_glyph_texts

PROMPTS = {
    "no quotes": "A quiet lake",
    "one text": "A sign that says 'OPEN'",
    "two texts": "A shop 'Bread' and 'Butter & Co.'",
    "three lengths": "A 'x' next to “a much longer headline, with commas” and \"mid size\"",
    "four texts": "'1' '22' '333' '4444'",
    "corner quotes": "海报「新年快乐」和「恭喜发财」",
    "empty text": "Say '' twice ''",
    "apostrophe": "It's the dog's 'home'",
    "beyond the limit": "'" + "long " * 500 + "'",
}


@pytest.fixture(scope="module")
def glyph(tiny_dir):
    return Checkpoint(tiny_dir).load_glyph()


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_embeddings_are_identical(glyph, reference, prompt):
    with torch.no_grad():
        expected = reference._get_glyph_embeds(prompt)[0]
    embeds = glyph.encode(get_glyph_texts(prompt))
    assert embeds.shape[1] == 32
    assert torch.equal(embeds, expected)


def test_what_is_kept_is_what_would_be_encoded_anew(glyph, reference, monkeypatch):
    """In any order of asking, with more prompts than are kept, and of texts that look alike."""
    encoded = []
    encode = glyph._encode
    monkeypatch.setattr(glyph, "_encode", lambda texts: encoded.append(texts) or encode(texts))
    alike = ["Say 'A' and 'B'", "Say 'B' and 'A'", "Say 'AB'", "Say 'A'"]
    prompts = alike + [f"Say '{number}'" for number in range(KEPT_ENCODINGS)]
    for prompt in [*alike, *alike, *prompts, *alike]:
        with torch.no_grad():
            expected = reference._get_glyph_embeds(prompt)[0]
        assert torch.equal(glyph.encode(get_glyph_texts(prompt)), expected), prompt
        glyph.encode([])  # as every guided picture does, so that it is never the oldest
    counts = [encoded.count(tuple(get_glyph_texts(prompt))) for prompt in prompts]
    assert counts == [2] * len(alike) + [1] * KEPT_ENCODINGS
    assert encoded.count(()) == 1


def test_a_pad_token_leads_every_text_when_their_number_is_even(glyph):
    pad, end = 0, 1
    first, second = [ord("a") + 3, end], [ord("b") + 3, ord("c") + 3, end]
    assert glyph.token_ids(["a"]) == [first]
    assert glyph.token_ids(["a", "bc"]) == [[pad, *first], [pad, *second]]
    assert glyph.token_ids(["a", "bc", "a"]) == [first, second, first]
    assert glyph.token_ids([]) == glyph.token_ids([""]) == [[end]]


def test_texts_do_not_see_each_other(glyph):
    one, two, three = "OPEN", "a considerably longer text", "SALE"
    together = glyph.encode([one, two, three])
    alone = torch.cat([glyph.encode([text]) for text in (one, two, three)])
    assert together.shape == alone.shape
    assert (together - alone).abs().max() < 1e-5
    swapped = glyph.encode([three, two, one])
    assert (swapped - together).abs().max() > 0.1


def test_a_text_is_cut_at_the_limit(glyph):
    assert len(glyph.encode(["x" * 5000])) == 2048
