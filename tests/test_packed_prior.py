"""The packed prior is the prior: same logits, any windows, and rows that do not feel each other."""

import ctypes
import mmap
import os

import numpy as np
import pytest
import torch

from glmimage import packed_prior
from glmimage.loading.checkpoint import Checkpoint, resolve_model
from glmimage.model.prior import KVCache
from glmimage.packed_prior import PackedPrior, can_pack, pack
from glmimage.thread_choice import cpu_threads

PROMPT = 21


@pytest.fixture(scope="module", params=["tiny", pytest.param("nano", marks=pytest.mark.nano)])
def prior(request, tiny_dir):
    return Checkpoint(tiny_dir if request.param == "tiny" else resolve_model("nano")).load_prior()


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def rows(prior, count, length=PROMPT + 16):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 200, (count, length), generator=generator)
    return prior.embed(ids), torch.randint(0, 40, (count, 3, length), generator=generator)


def read_prompts(prior, embeds, positions, dtype=torch.float32):
    cache = KVCache(prior.config, len(embeds), embeds.shape[1] + 3)
    cache.buffer.fill_(1e3)  # what earlier rows leave behind must never be seen
    prior(embeds[:, :PROMPT], positions[:, :, :PROMPT], cache)
    cache.buffer = cache.buffer.to(dtype)
    return cache


def window(embeds, positions, slots, counts):
    """Cut the positions behind the prompts of some rows, and lay them one after the other."""
    places = [(slot, slice(PROMPT, PROMPT + n)) for slot, n in zip(slots, counts, strict=True)]
    return (
        torch.cat([embeds[slot, at] for slot, at in places]),
        torch.cat([positions[slot, :, at].t() for slot, at in places]),
    )


@pytest.mark.parametrize("counts", [[1], [16], [1, 1, 1], [16, 3, 7, 1]])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_logits_equal_the_plain_prior(prior, counts, kept):
    embeds, positions = rows(prior, 4)
    slots = [2, 0, 3, 1][: len(counts)]
    cache = read_prompts(prior, embeds, positions, kept)
    found = PackedPrior(prior).logits(
        *window(embeds, positions, slots, counts), cache, slots, counts
    )
    whole = prior.head(prior(embeds, positions))
    expected = [whole[s, PROMPT : PROMPT + n] for s, n in zip(slots, counts, strict=True)]
    assert found.dtype == torch.float32
    if kept == torch.float32:
        assert (found - torch.cat(expected)).abs().max() < 1e-4 < whole.std()
    else:
        assert (found - torch.cat(expected)).norm() < 0.02 * torch.cat(expected).norm()


def test_masks_hide_what_comes_later(prior):
    """Cut out of one table, whatever was asked for before."""
    packed, groups = PackedPrior(prior), prior.config.num_heads // prior.config.num_kv_heads
    for start, count, longest in [(3, 2, 40), (30, 9, 40), (0, 4, 40), (50, 9, 64), (7, 33, 64)]:
        for dtype in (torch.float32, torch.bfloat16):
            cache = KVCache(prior.config, 1, longest, dtype=dtype)
            seen = torch.ones(count, start + count, dtype=dtype).tril(start)
            hidden = seen.repeat_interleave(groups, 0).log()
            found = packed._mask(start, count, cache)[0, 0]
            assert found.dtype == dtype and torch.equal(found, hidden)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_prompt_is_read_as_the_plain_prior_reads_it(prior, products):
    embeds, positions = rows(prior, 2)
    plain = read_prompts(prior, embeds, positions)
    cache = KVCache(prior.config, 2, PROMPT + 3, dtype=products)
    cache.buffer.fill_(1e3)
    cache.lengths[1] = 7  # of an earlier row
    found = PackedPrior(prior, products).read_prompt(
        embeds[1, :PROMPT], positions[1, :, :PROMPT], cache, 1
    )
    expected = prior.head(prior(embeds, positions))[1:, PROMPT - 1]
    tolerance = 1e-4 if products == torch.float32 else 0.05
    assert cache.lengths == [0, PROMPT]
    assert (found - expected).norm() < tolerance * expected.norm()
    kept, wanted = cache.buffer[:, 1, :PROMPT], plain.buffer[:, 1, :PROMPT]
    assert (kept - wanted).norm() < tolerance * wanted.norm()
    rest = cache.buffer.clone().fill_(1e3)
    assert torch.equal(cache.buffer[:, 0], rest[:, 0])
    assert torch.equal(cache.buffer[:, 1, PROMPT:], rest[:, 1, PROMPT:])


def test_a_prompt_that_does_not_fit_is_refused(prior):
    embeds, positions = rows(prior, 1)
    with pytest.raises(ValueError, match=r"0 \+ 21 positions do not fit a cache of 20"):
        PackedPrior(prior).read_prompt(
            embeds[0, :PROMPT], positions[0, :, :PROMPT], KVCache(prior.config, 1, PROMPT - 1), 0
        )


def taken(tensor):
    """Return how much of a tensor's memory the system has really given, 0..1."""
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    pages = np.zeros((end - start) // mmap.PAGESIZE, np.uint8)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    given = ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_void_p(pages.ctypes.data)
    assert mincore(*given) == 0, os.strerror(ctypes.get_errno())
    return (pages & 1).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_no_memory_before_it_is_written(prior, dtype):
    values = prior.config.num_layers * 2 * prior.config.num_kv_heads * prior.config.head_dim
    cache = KVCache(prior.config, 1, 2**27 // (values * dtype.itemsize), dtype=dtype)
    assert cache.num_bytes > 2**26 and cache.buffer.dtype == dtype
    assert taken(cache.buffer) < 1 / 8
    assert not cache.buffer[:, :, :: cache.max_length // 8].any()
    cache.buffer.fill_(1)
    assert taken(cache.buffer) == 1


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_last_bit_whoever_is_beside_it(prior, products):
    packed, (embeds, positions) = pack(prior, products), rows(prior, 6)
    counts = [5, 16, 1, 4, 16, 9]
    cache = read_prompts(prior, embeds, positions, packed.products)
    together = packed.logits(
        *window(embeds, positions, range(6), counts), cache, range(6), counts
    ).split(counts)
    for slot, count in enumerate(counts):
        alone = packed.logits(*window(embeds, positions, [slot], [count]), cache, [slot], [count])
        assert torch.equal(alone, together[slot])


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_last_bit_on_any_number_of_threads(prior, products):
    """Of 128 positions, whose values several threads share anywhere in a row."""
    packed, (embeds, positions) = pack(prior, products), rows(prior, 8)
    cache = read_prompts(prior, embeds, positions, packed.products)
    given = (range(8), [16] * 8)
    found = []
    for threads in (1, 2, 3, 4):
        with cpu_threads(threads):
            found.append(packed.logits(*window(embeds, positions, *given), cache, *given))
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_a_window_that_does_not_fit_is_refused(prior):
    embeds, positions = rows(prior, 1)
    cache = read_prompts(prior, embeds, positions)
    cache.lengths[0] = cache.max_length - 3
    with pytest.raises(ValueError, match=r"37 \+ 4 positions do not fit a cache of 40"):
        PackedPrior(prior).logits(*window(embeds, positions, [0], [4]), cache, [0], [4])


def test_only_float32_on_a_cpu_is_packed(prior, tiny_dir):
    assert can_pack(prior)
    assert not can_pack(Checkpoint(tiny_dir).load_prior(dtype=torch.bfloat16))


def test_products_in_bfloat16_are_rounded_and_nothing_else(prior):
    embeds, positions = rows(prior, 2)
    cache = read_prompts(prior, embeds, positions)
    given = (*window(embeds, positions, [0, 1], [9, 7]), cache, [0, 1], [9, 7])
    exact, found = (
        PackedPrior(prior, products).logits(*given) for products in (torch.float32, torch.bfloat16)
    )
    assert found.dtype == torch.bfloat16
    assert 0 < (found.float() - exact).norm() < 0.05 * exact.norm()


def test_where_rows_would_differ_the_products_stay_in_float32(prior, monkeypatch):
    product = packed_prior._product

    def cut_up(x, weight, bias):
        out = product(x, weight, bias)
        return out * 1.01 if x.dtype == torch.bfloat16 and len(x) == 17 else out

    assert pack(prior, torch.float32).products == torch.float32
    monkeypatch.setattr(packed_prior, "_product", cut_up)
    assert not PackedPrior(prior, torch.bfloat16).rows_are_independent()
    assert pack(prior, torch.bfloat16).products == torch.float32
