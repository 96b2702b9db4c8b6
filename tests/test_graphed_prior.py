"""A decode step on fixed tensors computes what the plain step computes, for any rows."""

import pytest
import torch

from glmimage.graphed_prior import REACH_STEP, GraphedPrior
from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.prior import KVCache


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@torch.inference_mode()
def test_steps_are_those_of_the_plain_prior(tiny_dir, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    prior = Checkpoint(tiny_dir).load_prior(device)
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 40, REACH_STEP - 2]
    caches = [KVCache(prior.config, 4, REACH_STEP + 64, device) for _ in range(2)]
    for cache in caches:
        cache.buffer.fill_(7.0)  # what earlier rows leave behind must never be seen
    for slot, length in zip((2, 0, 3), lengths, strict=True):
        embeds = prior.embed(torch.randint(0, 200, (1, length), generator=generator).to(device))
        positions = torch.arange(length, device=device).expand(1, 3, length)
        for cache in caches:
            prior(embeds, positions, cache, [slot])
    graphed = GraphedPrior(prior)
    # rows come and go, and one grows past a step of the reach
    for slots in ([2, 0, 3], [2, 0, 3], [3], [3, 2], [0, 3, 2]):
        ids = torch.randint(0, 200, (len(slots),), generator=generator).to(device)
        starts = [caches[0].lengths[slot] for slot in slots]
        at = torch.tensor(starts, device=device)[:, None].expand(-1, 3)
        hidden = prior(prior.embed(ids)[:, None], at[..., None], caches[0], slots)
        found = graphed.logits(ids, at, caches[1], slots).clone()
        for slot in slots:
            caches[1].lengths[slot] += 1
        assert (found - prior.logits(hidden[:, -1])).abs().max() < 2e-4
        for slot in slots:
            length = caches[0].lengths[slot]
            left, right = (cache.buffer[:, slot, :length] for cache in caches)
            assert (left - right).abs().max() < 2e-4
    assert len(graphed._steps) >= 3
    caches[1].lengths[3] = caches[1].max_length
    with pytest.raises(ValueError, match="do not fit a cache"):
        graphed.logits(ids[:1], at[:1], caches[1], [3])
