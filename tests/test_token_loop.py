"""Guessed windows write the very tokens that one-by-one writing does, in fewer passes."""

import itertools
from dataclasses import replace

import pytest
import torch

from glmimage import token_loop
from glmimage.model.sampling import sorted_distribution
from glmimage.packed_prior import pack
from glmimage.picture import make_pictures
from glmimage.pipeline import encode_prompts
from glmimage.stages import Stages
from glmimage.thread_choice import cpu_threads
from glmimage.token_loop import MIN_WINDOW, WINDOW, TokenLoop
from glmimage.types import GenerationRequest, PriorProgress, PriorReady, SmallGridReady

PROMPTS = ["A poster with the headline 'OPEN'", "A quiet page", "A sign that says 'Fresh Bread'"]


@pytest.fixture(scope="module")
def tiny(tiny_dir):
    return Stages.load(str(tiny_dir), "cpu", "float32").prior()


@pytest.fixture(scope="module")
def nano():
    return Stages.load("nano", "cpu", "float32", memory="staged").prior()


def encoded(stage, count, seed=3, **options):
    pictures = []
    for number in range(count):
        request = GenerationRequest(PROMPTS[number % 3], 512, 512, seed=seed + number, **options)
        pictures += make_pictures(str(number), request)
    encode_prompts(stage, pictures)
    return pictures


def write(stage, pictures, window=WINDOW, stop_after=None):
    """Return the tokens of each picture and the number of passes."""
    loop, passes, events = TokenLoop(stage, len(pictures), window=window), 0, []
    for picture in pictures:
        loop.enter([picture])
    while loop.rows and passes != stop_after:
        events += loop.step()
        passes += 1
    written = {e.request_id: e.prior_token_ids for e in events if isinstance(e, PriorReady)}
    return [written.get(picture.request_id) for picture in pictures], passes, events


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3}, {"temperature": 1.5, "top_p": 1.0}])
def test_tokens_are_those_of_one_by_one_writing(tiny, options):
    """All of 768 tokens: one wrong in 165 would be missed once in a hundred runs."""
    assert tiny.packed is not None
    plain = replace(tiny, packed=None)
    expected, passes, _ = write(plain, encoded(tiny, 3, **options))
    assert passes == 2 * 256 - 1
    for window in (1, WINDOW):
        found, fewer, _ = write(tiny, encoded(tiny, 3, **options), window)
        assert found == expected
        assert fewer <= passes


@pytest.mark.nano
def test_nano_is_written_in_less_than_half_of_the_passes(nano):
    expected, plain, _ = write(nano, encoded(nano, 1), window=1)
    found, passes, events = write(nano, encoded(nano, 1))
    assert found == expected
    assert passes * 2 < plain == 2 * 256 - 1
    (small,) = [event for event in events if isinstance(event, SmallGridReady)]
    assert len(small.prior_token_ids) == 256
    told = [event.num_tokens for event in events if isinstance(event, PriorProgress)]
    assert told == sorted(set(told))
    assert told[-1] == 512


class _Alternating:
    """Run the passes on so many threads in turn."""

    def __init__(self, *counts):
        self.counts = itertools.cycle(counts)

    def chosen(self, work):
        assert work > 0
        return cpu_threads(next(self.counts))


@pytest.mark.nano
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_tokens_do_not_depend_on_the_number_of_threads(nano, products, monkeypatch):
    """Nor on the batch: eight full windows are 128 positions, which several threads share."""
    stage = replace(nano, packed=pack(nano.prior, products))
    monkeypatch.setattr(token_loop, "ThreadChoice", lambda: _Alternating(1))
    alone = [write(stage, [picture])[0][0] for picture in encoded(stage, 8)[:2]]
    on_one, passes, _ = write(stage, encoded(stage, 8))
    assert on_one[:2] == alone
    monkeypatch.setattr(token_loop, "ThreadChoice", lambda: _Alternating(4, 1, 3, 2))
    assert write(stage, encoded(stage, 8))[:2] == (on_one, passes)


@pytest.mark.nano
def test_tokens_do_not_depend_on_batch_mates(nano):
    together, _, _ = write(nano, encoded(nano, 3), stop_after=None)
    alone = [write(nano, [picture])[0][0] for picture in encoded(nano, 3)[:2]]
    assert together[:2] == alone


def test_a_window_is_as_wide_as_the_grid(tiny):
    loop = TokenLoop(tiny, 3)
    wide = GenerationRequest(PROMPTS[0], 1024, 512, seed=1)
    pictures = make_pictures("wide", wide)
    encode_prompts(tiny, pictures)
    loop.enter(pictures)
    (row,) = loop.rows.values()
    assert (row.inputs.small_grid, row.inputs.large_grid) == ((11, 22), (16, 32))
    for number, columns in ((1, 22), (11 * 22 - 1, 22), (11 * 22, 32)):
        row.num_tokens = number
        assert row.window(WINDOW) == columns
        assert row.window(7) == 7
    row.num_tokens = row.inputs.num_tokens - 5
    assert row.window(WINDOW) == 5


def test_a_row_whose_guesses_fail_reads_fewer_at_once(tiny, monkeypatch):
    counts = []
    logits = tiny.packed.logits

    def random_logits(embeds, positions, cache, slots, wanted):
        counts.append(wanted[0])
        generator = torch.Generator().manual_seed(len(counts))
        return torch.randn(
            logits(embeds, positions, cache, slots, wanted).shape, generator=generator
        )

    monkeypatch.setattr(tiny.packed, "logits", random_logits)
    write(tiny, encoded(tiny, 1), stop_after=60)
    assert counts[0] == 16
    assert min(counts) == MIN_WINDOW


SETTINGS = [
    {"temperature": temperature, "top_p": top_p}
    for temperature in (0.2, 0.9, 1.6)
    for top_p in (0.5, 0.75, 1.0)
]


def of_many_settings(stage):
    """Encode a picture for each setting; prompts and seeds differ, too."""
    pictures = []
    for number, options in enumerate(SETTINGS):
        request = GenerationRequest(PROMPTS[number % 3], 512, 512, seed=10**6 * number, **options)
        pictures += make_pictures(str(number), request)
    encode_prompts(stage, pictures)
    return pictures


@pytest.mark.parametrize("model", ["tiny", pytest.param("nano", marks=pytest.mark.nano)])
def test_no_setting_changes_a_token(model, request):
    """4608 tokens of nine prompts, seeds and settings that share their passes."""
    stage = request.getfixturevalue(model)
    expected, plain, _ = write(stage, of_many_settings(stage), window=1)
    found, passes, _ = write(stage, of_many_settings(stage))
    assert found == expected
    assert passes < plain == 2 * 256 - 1
    assert len(set(map(tuple, found))) > len(SETTINGS) // 2  # a quiet page is often the same


def test_guessed_windows_draw_from_the_distribution_of_plain_sampling(tiny):
    """The second token of 2048 pictures against its exact marginal, by a chi-square test.

    At a level of 1e-4 it would notice with a probability above .99 that a third of the pictures
    drew from all codes alike; the test computes that power for the distribution at hand.
    """
    options = {"temperature": 1.5, "top_p": 1.0}
    (first,) = make_pictures("0", GenerationRequest("A page", 512, 512, seed=0, **options))
    encode_prompts(tiny, [first])
    exact = second_token(tiny, first.encoded, **options)
    counts = torch.zeros_like(exact)
    for turn in range(32):
        request = GenerationRequest("A page", 512, 512, seed=turn, num_images=4, **options)
        loop = TokenLoop(tiny, 64)
        for number in range(16):
            pictures = make_pictures(str(number), replace(request, seed=1000 * turn + number))
            for picture in pictures:
                picture.inputs = first.inputs
            loop.enter(pictures)
        loop.step()
        drawn = torch.stack([loop._tokens[row.slot, 1] for row in loop.rows.values()])
        counts += torch.bincount(drawn, minlength=len(exact))
    total = counts.sum()
    assert total == 2048
    likely = exact > 5 / total
    expected = torch.cat([exact[likely], exact[~likely].sum()[None]]) * total
    seen = torch.cat([counts[likely], counts[~likely].sum()[None]])
    statistic = float(((seen - expected) ** 2 / expected.clamp(min=1)).sum())
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the 1e-4 quantile
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert freedom > 20
    assert statistic < bound
    codes = (~tiny.suppress).float() / (~tiny.suppress).sum()
    alike = torch.cat([codes[likely], codes[~likely].sum()[None]]) * total
    shift = float(((alike - expected) / 3).square().div(expected.clamp(min=1)).sum())
    # a noncentral chi-square, as a normal distribution: 2.33 standard deviations above the bound
    assert freedom + shift - bound > 2.33 * (2 * (freedom + 2 * shift)) ** 0.5


@torch.inference_mode()
def second_token(stage, inputs, temperature, top_p):
    """Return the exact distribution of the second token: over all first ones, one by one."""

    def distribution(logits):
        rows = len(logits)
        weights, ids = sorted_distribution(
            logits.masked_fill(stage.suppress, -torch.inf),
            [temperature] * rows,
            [top_p] * rows,
            stage.sampling.top_k,
        )
        shares = weights / weights.sum(1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, ids, shares)

    positions = torch.cat([inputs.position_ids, inputs.decode_position_ids[:, :1]], dim=1)
    embeds = stage.prior.embed(inputs.input_ids)[None]
    before = stage.prior(embeds, inputs.position_ids[None])
    p_first = distribution(stage.prior.logits(before[:, -1]))[0]
    p_second = torch.zeros_like(p_first)
    for token in p_first.nonzero()[:, 0]:
        longer = torch.cat([embeds, stage.prior.embed(token)[None, None]], dim=1)
        hidden = stage.prior(longer, positions[None])
        p_second += p_first[token] * distribution(stage.prior.logits(hidden[:, -1]))[0]
    return p_second
