"""Drawing tokens: transformers' filters, one image's own numbers, and nobody else's."""

import itertools
import subprocess
import sys

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from glmimage.errors import CheckpointInvalid
from glmimage.model import sampling
from glmimage.model.sampling import RandomStream, SamplingConfig, sample, sorted_distribution

VOCAB = 300


def random_logits(rows, seed=0, spread=3.0):
    return spread * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def distribution(logits, temperature, top_p, top_k):
    """Return what ours draws from, as probabilities in the order of the vocabulary."""
    weights, ids = sorted_distribution(logits, temperature, top_p, top_k)
    return torch.zeros_like(logits).scatter(-1, ids, weights / weights.sum(-1, keepdim=True))


SETTINGS = list(itertools.product([0.5, 0.9, 1.0, 1.7], [0.2, 0.75, 0.9, 1.0], [0, 1, 5, 50, 1000]))


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), SETTINGS)
def test_filters_equal_transformers(temperature, top_p, top_k):
    logits = random_logits(16)
    suppressed = [0, 7, 9, *range(250, 270)]
    logits[:, 250] = 50.0  # would be certain, were it not suppressed
    processors = LogitsProcessorList([SuppressTokensLogitsProcessor(suppressed)])
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    expected = processors(torch.zeros(16, 1, dtype=torch.long), logits).softmax(-1)
    mask = torch.zeros(VOCAB, dtype=torch.bool)
    mask[suppressed] = True
    masked = logits.masked_fill(mask, -torch.inf)
    found = distribution(masked, [temperature] * 16, [top_p] * 16, top_k)
    assert torch.equal(found > 0, expected > 0)
    assert (found - expected).abs().max() < 1e-6


def test_every_row_has_its_own_temperature_and_top_p():
    logits = random_logits(4)
    heats, tops = [0.4, 0.9, 1.0, 2.0], [0.3, 1.0, 0.75, 0.9]
    together = distribution(logits, heats, tops, 50)
    for row in range(4):
        alone = distribution(logits[row, None], [heats[row]], [tops[row]], 50)
        assert torch.equal(together[row], alone[0])


def test_tokens_as_good_as_the_last_kept_one_stay():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = distribution(logits, [1.0], [1.0], 2) > 0
    assert kept.tolist() == [[False, True, True, True, False]]
    expected = TopKLogitsWarper(2)(None, logits) > -torch.inf
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("ties", [3, 12, 40, 300])
def test_any_number_of_tokens_may_be_as_good_as_the_last_kept_one(ties):
    """Also more of them than are sorted at first."""
    logits = random_logits(2)
    logits[0] = logits[0].clamp(max=5.0)
    logits[0, :ties] = 5.0
    kept = distribution(logits, [1.0] * 2, [1.0] * 2, 5) > 0
    assert torch.equal(kept, TopKLogitsWarper(5)(None, logits) > -torch.inf)
    assert kept.sum(-1).tolist()[1] == 5
    assert kept.sum(-1).tolist()[0] >= ties


def test_a_row_whose_tokens_tie_changes_nothing_for_another():
    logits = random_logits(2).bfloat16()
    logits[0, :40] = logits[0].max()
    uniforms = [n / 64 for n in range(64)]
    alone = sample(logits[1:].repeat(64, 1), [1.5] * 64, [1.0] * 64, 5, uniforms)
    beside = torch.stack([logits[0], *[logits[1]] * 64])
    together = sample(beside, [1.5] * 65, [1.0] * 65, 5, [0.5, *uniforms])
    assert torch.equal(together[1:], alone)
    assert len(alone.unique()) > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [4096, 5003, 8208])
def test_the_best_of_a_large_vocabulary_are_those_of_topk(size, dtype):
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(6, size, generator=generator).to(dtype)
    logits[1, 100:] = -torch.inf
    logits[2, -5:] = 9.0  # where blocks of 16 leave a rest
    best, ids = sampling._best(logits, 60)
    assert torch.equal(best, logits.topk(60).values)
    assert torch.equal(logits.gather(1, ids), best)
    assert all(len(row.unique()) == 60 for row in ids)


def test_uniforms_walk_through_the_distribution_likeliest_first():
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    for uniform, token in [(0.0, 1), (0.59, 1), (0.61, 2), (0.89, 2), (0.91, 0), (1 - 2**-24, 0)]:
        assert sample(logits, [1.0], [1.0], 0, [uniform]).tolist() == [token]
    # the same numbers after top-p: only the two likeliest are left, two to one
    for uniform, token in [(0.0, 1), (0.66, 1), (0.67, 2), (1 - 2**-24, 2)]:
        assert sample(logits, [1.0], [0.85], 0, [uniform]).tolist() == [token]


@pytest.mark.parametrize("largest", [1 - 2**-24, 1 - 2**-40])
def test_the_largest_uniform_never_draws_a_removed_token(largest):
    """The second number is 1 once it is float32."""
    for seed in range(100):
        logits = random_logits(8, seed)
        ids = sample(logits, [1.3] * 8, [0.9] * 8, 50, [largest] * 8)
        kept = distribution(logits, [1.3] * 8, [0.9] * 8, 50)
        assert (kept.gather(-1, ids[:, None]) > 0).all()


def test_temperature_zero_takes_the_likeliest():
    logits = random_logits(6)
    ids = sample(logits, [0.0] * 6, [1.0] * 6, 0, [0.999] * 6)
    assert torch.equal(ids, logits.argmax(-1))
    mixed = sample(logits, [0.0, 1.0] * 3, [1.0] * 6, 0, [0.999] * 6)
    assert torch.equal(mixed[::2], logits.argmax(-1)[::2])
    assert not torch.equal(mixed[1::2], logits.argmax(-1)[1::2])


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.8, 0), (1.0, 4)])
def test_drawn_frequencies_are_the_probabilities(top_p, top_k):
    """Chi-square over 40,000 draws of one stream from 8 tokens, at the 0.1 % level."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0, 1.5, -2.0, 0.2])
    stream, count = RandomStream(2026), 40_000
    uniforms = [stream.uniform(position) for position in range(count)]
    rows = logits.expand(count, -1)
    ids = sample(rows, [0.9] * count, [top_p] * count, top_k, uniforms)
    expected = distribution(logits[None], [0.9], [top_p], top_k)[0] * count
    observed = ids.bincount(minlength=8).float()
    possible = expected > 0
    assert (observed[~possible] == 0).all()
    chi_square = ((observed - expected)[possible] ** 2 / expected[possible]).sum()
    limits = {2: 10.83, 3: 13.82, 4: 16.27, 5: 18.47, 8: 24.32}  # tokens left -> 99.9 % quantile
    assert chi_square < limits[int(possible.sum())]


def test_uniforms_are_uniform_and_unrelated():
    """Chi-square over 256 cells (99.9 % quantile 330.5): values, pairs, neighbouring seeds."""
    count = 1 << 15
    draws = torch.tensor([RandomStream(1).uniform(p) for p in range(count)], dtype=torch.float64)
    across = torch.tensor([RandomStream(s).uniform(0) for s in range(count)], dtype=torch.float64)
    assert draws.min() >= 0
    assert draws.max() < 1
    for values in (draws, across):
        coarse, cells = (values * 16).long(), (values * 256).long()
        pairs = coarse[::2] * 16 + coarse[1::2]
        for group in (cells, pairs):
            observed = group.bincount(minlength=256).double()
            expected = len(group) / 256
            assert ((observed - expected) ** 2 / expected).sum() < 330.5
    assert ((draws * 2**24) % 1 == 0).all()  # exactly what float32 holds


def test_streams_do_not_overlap():
    """No image's numbers are another's moved along, as plain SplitMix64 of seed + i would be."""
    golden = 0x9E3779B97F4A7C15
    seeds = [0, 1, 2, golden, 2 * golden & (2**64 - 1), 2**63 - 1]
    windows = [{RandomStream(s).uniform(p) for p in range(300)} for s in seeds]
    for one, other in itertools.combinations(windows, 2):
        assert len(one & other) < 3


def test_a_stream_is_the_same_in_any_order_and_process():
    stream = RandomStream(77)
    backwards = [stream.uniform(position) for position in reversed(range(50))]
    assert backwards[::-1] == [RandomStream(77).uniform(position) for position in range(50)]
    code = (
        "from glmimage.model.sampling import RandomStream as R;"
        "print(R(77).uniform(3), R(77).noise((2, 3)).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == f"{stream.uniform(3)} {stream.noise((2, 3)).tolist()}"
    # written down: a change would repaint every picture made so far from its seed
    assert [round(RandomStream(0).uniform(p) * 2**24) for p in range(3)] == [
        12675199,
        1842363,
        342395,
    ]


def test_noise_is_what_diffusers_draws_for_the_seed():
    from diffusers.utils.torch_utils import randn_tensor

    expected = randn_tensor((1, 4, 6, 5), generator=torch.Generator().manual_seed(123))
    assert torch.equal(RandomStream(123).noise((1, 4, 6, 5)), expected)
    assert not torch.equal(RandomStream(124).noise((1, 4, 6, 5)), expected)


def test_no_global_random_state_is_read_or_written():
    logits = random_logits(3)
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            stream = RandomStream(5)
            uniforms = [stream.uniform(position) for position in range(3)]
            ids = sample(logits, [0.9] * 3, [0.9] * 3, 50, uniforms)
            results.append((ids.tolist(), stream.noise((4,)).tolist()))
            assert torch.equal(before, torch.get_rng_state())
    assert results[0] == results[1]


def test_the_checkpoints_settings():
    config = SamplingConfig.from_dict(
        {"do_sample": True, "temperature": 0.9, "top_p": 0.75, "suppress_tokens": [6, 3, 99]}
    )
    assert config == SamplingConfig(0.9, 50, 0.75, (6, 3, 99))
    # what transformers does with an empty generation_config.json
    assert SamplingConfig.from_dict({}) == SamplingConfig(1.0, 50, 1.0, ())
    assert SamplingConfig.from_dict({"top_k": 0, "top_p": None}).top_k == 0
    mask = config.suppress_mask(8, num_codes=5)
    assert mask.tolist() == [False, False, False, True, False, True, True, True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 1.5),
        ("suppress_tokens", "all"),
        ("repetition_penalty", 1.2),
        ("min_p", 0.1),
        ("num_beams", 4),
        ("no_repeat_ngram_size", 3),
        ("begin_suppress_tokens", [1]),
    ],
)
def test_settings_that_would_not_be_honoured_are_refused(key, value):
    with pytest.raises(CheckpointInvalid, match=rf"generation_config\.json: {key}: "):
        SamplingConfig.from_dict({key: value})
