"""Guessed windows write the very tokens that one-by-one writing does, in fewer passes."""

import itertools
from dataclasses import replace

import pytest
import torch

from glmimage import token_loop
from glmimage.model.prior import KVCache
from glmimage.model.sampling import sorted_distribution
from glmimage.packed_prior import PackedPrior, pack
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


def guessing(stage):
    """Return a stage that is not packed and reads windows: what a GPU has, on a CPU."""
    return replace(stage, packed=None, guesses=True)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_guesses_without_packed_weights_write_the_same(tiny, count):
    """One request, three, and eight that share 32 positions."""
    expected, passes, _ = write(replace(tiny, packed=None), encoded(tiny, count))
    found, fewer, _ = write(guessing(tiny), encoded(tiny, count))
    assert found == expected
    assert fewer <= passes


@pytest.mark.nano
def test_guesses_without_packed_weights_halve_the_passes(nano):
    plain, passes, _ = write(replace(nano, packed=None), encoded(nano, 1))
    found, fewer, _ = write(guessing(nano), encoded(nano, 1))
    assert found == plain
    assert fewer * 2 < passes


def test_a_graphed_step_reads_windows_too(tiny):
    """Without CUDA the step of a graph runs kernel by kernel, on the same fixed tensors."""
    expected, _, _ = write(replace(tiny, packed=None), encoded(tiny, 3))
    found, _, _ = write(replace(guessing(tiny), graphs=True), encoded(tiny, 3))
    assert found == expected


def test_unpacked_rows_guess_while_that_gains(tiny):
    """Few rows read far ahead, many less, and none where guesses fail, until the next grid."""
    loop = TokenLoop(guessing(tiny), 64)
    pictures = encoded(tiny, 40)
    for picture in pictures:
        loop.enter([picture])
    rows = list(loop.rows.values())
    ahead = [loop._ahead(rows[:count]) for count in (1, 2, 3, 4, 8, 16, 17, 40)]
    assert ahead == [16, 16, 10, 8, 4, 2, 1, 1]
    row = rows[0]
    row.num_tokens = row.inputs.num_tokens - 15
    assert loop._ahead([row]) == 1
    row.num_tokens, row.pace = 9, 1.2
    assert loop._ahead([row]) == 1
    assert loop._ahead([row, rows[1]]) == 16  # in the mean they gain
    row.num_tokens = row.inputs.num_small
    assert loop._ahead([row]) == 16
    row.stage = replace(row.stage, guesses=False)
    assert loop._ahead([row]) == 1


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


class _Careless(TokenLoop):
    """Accept a share of the guesses unseen."""

    def __init__(self, stage, share):
        super().__init__(stage)
        self.share, self.generator = share, torch.Generator().manual_seed(0)

    def _sample(self, rows, counts, logits):
        drawn = super()._sample(rows, counts, logits).split(counts)
        for row, ids in zip(rows, drawn, strict=True):
            guesses = self._tokens[row.slot, row.num_tokens : row.num_tokens + len(ids)]
            guessed = torch.rand(len(ids), generator=self.generator) < self.share
            guessed[-1] = False  # behind the last position of a window nothing is guessed
            ids[guessed] = guesses[guessed]
        return torch.cat(drawn)


PAIR_BINS = 6
NUM_WRITTEN = 8


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_guessed_windows_draw_from_the_distribution_of_plain_sampling(tiny, products):
    """Every token against what the model says after the tokens before it, by a chi-square test.

    Of a token drawn from its distribution the place in the CDF, at random within the token's own
    step, is uniform and independent of the places before (Rosenblatt); 2048 pairs of neighbours
    are counted in 36 bins. At a level of 1e-4 the test would notice with a probability above .99
    that one guess in eight is accepted unseen; that power is estimated from one run of a loop
    that does so, which has to fail, too.
    """
    stage = replace(tiny, packed=PackedPrior(tiny.prior, products))
    freedom = PAIR_BINS**2 - 1
    # Wilson and Hilferty's approximation of the 1e-4 quantile
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    total = NUM_WRITTEN * 256
    expected = total / PAIR_BINS**2

    def statistic(loop):
        counts = pairs_of_places(stage, loop)
        assert counts.sum() == total
        return float(((counts - expected) ** 2 / expected).sum())

    assert statistic(TokenLoop(stage)) < bound
    careless = statistic(_Careless(stage, 1 / 8))
    assert careless > bound
    # of a noncentral chi-square, as a normal distribution: 2.33 standard deviations above the bound
    shift = careless - freedom
    assert careless - bound > 2.33 * (2 * (freedom + 2 * shift)) ** 0.5


def pairs_of_places(stage, loop):
    """Write pictures; count the pairs of places in the CDF of each second token and the next."""
    waiting, written = encoded(stage, NUM_WRITTEN, seed=50), {}
    inputs = {picture.request_id: picture.encoded for picture in waiting}
    while waiting or loop.rows:
        while waiting and loop.room(waiting[0].encoded.max_length):
            loop.enter([waiting.pop(0)])
        for event in loop.step():
            if isinstance(event, SmallGridReady | PriorReady):
                written.setdefault(event.request_id, []).extend(event.prior_token_ids)
    generator = torch.Generator().manual_seed(1)
    places = [places_in_cdf(stage, inputs[name], written[name], generator) for name in inputs]
    bins = (torch.cat(places) * PAIR_BINS).long().clamp(max=PAIR_BINS - 1).view(-1, 2)
    return torch.bincount(bins[:, 0] * PAIR_BINS + bins[:, 1], minlength=PAIR_BINS**2)


@torch.inference_mode()
def places_in_cdf(stage, inputs, tokens, generator):
    """Return the place in [0, 1] of each token (N,), at random within its step."""
    packed, tokens = stage.packed, torch.tensor(tokens)
    cache = KVCache(stage.prior.config, 1, inputs.max_length, dtype=packed.products)
    prompt, embeds = stage.prior.embed(inputs.input_ids), stage.prior.embed(tokens[:-1])
    first = packed.read_prompt(prompt, inputs.position_ids, cache, 0)
    positions = inputs.decode_position_ids[:, : len(embeds)].t()
    rest = packed.logits(embeds, positions, cache, [0], [len(embeds)])
    logits = torch.cat([first, rest]).masked_fill(stage.suppress, -torch.inf)
    config, count = stage.sampling, len(tokens)
    weights, ids = sorted_distribution(
        logits, [config.temperature] * count, [config.top_p] * count, config.top_k
    )
    shares = weights / weights.sum(1, keepdim=True)
    at = ids == tokens[:, None]  # nowhere where it has no probability at all
    own, up_to = (shares * at).sum(1), (shares.cumsum(1) * at).sum(1)
    places = up_to - torch.rand(count, generator=generator) * own
    return places.where(own > 0, 1.0).clamp(0, 1)
