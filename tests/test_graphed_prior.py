"""A decode step on fixed tensors computes what the plain step computes, for any rows."""

import pytest
import torch

from glmimage.graphed_prior import REACH_STEP, GraphedPrior
from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.prior import KVCache


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("compiled", [False, True])
@torch.inference_mode()
def test_steps_are_those_of_the_plain_prior(tiny_dir, device, compiled):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    prior = Checkpoint(tiny_dir).load_prior(device)
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 40, REACH_STEP - 2, 9]
    caches = [KVCache(prior.config, 4, REACH_STEP + 64, device) for _ in range(2)]
    for cache in caches:
        cache.buffer.fill_(7.0)  # what earlier rows leave behind must never be seen
    for slot, length in zip((2, 0, 3, 1), lengths, strict=True):
        embeds = prior.embed(torch.randint(0, 200, (1, length), generator=generator).to(device))
        positions = torch.arange(length, device=device).expand(1, 3, length)
        for cache in caches:
            prior(embeds, positions, cache, [slot])
    fastest = "inductor" if device == "cuda" else "eager"
    graphed = GraphedPrior(prior, fastest if compiled else None)
    # rows come and go, some are the first slots in order, and one grows past a step of the reach
    for slots in ([2, 0, 3], [2, 0, 3], [0], [0, 1], [1, 0], [3], [3, 2], [0, 3, 2], [0, 1, 2, 3]):
        for count in (1, 3):
            ids = torch.randint(0, 200, (len(slots), count), generator=generator).to(device)
            at = torch.tensor([caches[0].lengths[slot] for slot in slots], device=device)
            at = (at[:, None] + torch.arange(count, device=device))[:, None].expand(-1, 3, -1)
            hidden = prior(prior.embed(ids), at, caches[0], slots)
            found = graphed.logits(ids, at, caches[1], slots).clone()
            for slot in slots:
                caches[1].lengths[slot] += count
            assert (found - prior.logits(hidden.flatten(0, 1))).abs().max() < 2e-4
            for slot in slots:
                length = caches[0].lengths[slot]
                left, right = (cache.buffer[:, slot, :length] for cache in caches)
                assert (left - right).abs().max() < 2e-4
    assert {(rows, count, in_place) for rows, count, _, in_place in graphed._steps} >= {
        (rows, count, in_place)
        for rows in (1, 2, 4) for count in (1, 3) for in_place in (True, False)
    }  # fmt: skip
    caches[1].lengths[3] = caches[1].max_length
    with pytest.raises(ValueError, match="do not fit a cache"):
        graphed.logits(ids[:1], at[:1], caches[1], [3])
