"""The decoder's velocity equals diffusers' to 1e-4, and a picture never depends on its batch."""

import pytest
import torch
from torch import Tensor

from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.dit import DiT
from glmimage.model.reference_cache import ReferenceCache

SIZE = (512, 768)  # not square: a swap of rows and columns shows
REFERENCE_SIZES = [(512, 512), (640, 512), (512, 1024), (576, 544)]


@pytest.fixture(scope="module")
def dit(tiny_dir):
    return Checkpoint(tiny_dir).load_dit()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def random_inputs(seed, num_glyphs=9, size=SIZE):
    """Draw what one picture gives the decoder, as keyword arguments of DiT.forward."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    num_patches = height // 16 * (width // 16)
    return {
        "latents": torch.randn(1, 16, height // 8, width // 8, generator=generator),
        "glyph_embeds": torch.randn(1, num_glyphs, 32, generator=generator),
        "prior_token_ids": torch.randint(0, 256, (1, num_patches), generator=generator),
        "prior_drop": torch.tensor([False]),
        "timestep": torch.tensor([749.0]),
        "target_size": torch.tensor([[float(height), float(width)]]),
        "crop_coords": torch.zeros(1, 2),
    }


def random_references(seed, sizes):
    inputs = [random_inputs(seed + n, size=size) for n, size in enumerate(sizes)]
    latents = [one["latents"][0] for one in inputs]
    return latents, [one["prior_token_ids"][0] for one in inputs], sizes


def diffusers_velocity(reference, inputs, kv_caches=None):
    ids = inputs["prior_token_ids"]
    return reference.transformer(
        hidden_states=inputs["latents"],
        encoder_hidden_states=inputs["glyph_embeds"],
        prior_token_id=ids,
        prior_token_drop=inputs["prior_drop"][:, None].expand_as(ids),
        timestep=inputs["timestep"],
        target_size=inputs["target_size"],
        crop_coords=inputs["crop_coords"],
        kv_caches=kv_caches,
    ).sample


def diffusers_cache(reference, latents, prior_token_ids, sizes):
    """Write the references one after the other, as the reference pipeline does."""
    from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

    caches = GlmImageKVCache(num_layers=reference.transformer.config.num_layers)
    caches.set_mode("write")
    for latent, ids, (height, width) in zip(latents, prior_token_ids, sizes, strict=True):
        reference.transformer(
            hidden_states=latent[None],
            encoder_hidden_states=torch.zeros(1, 0, 32),
            prior_token_id=ids,
            prior_token_drop=torch.zeros_like(ids, dtype=torch.bool),
            timestep=torch.zeros(1),
            target_size=torch.tensor([[height, width]]),
            crop_coords=torch.zeros(1, 2),
            kv_caches=caches,
        )
    caches.set_mode("read")
    return caches


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item()


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("size", [SIZE, (768, 512), (512, 512)])
def test_velocity_equals_the_reference(dit, reference, size, dropped):
    inputs = random_inputs(1, size=size) | {"prior_drop": torch.tensor([dropped])}
    velocity = dit(**inputs)
    assert velocity.dtype == torch.float32
    assert velocity.std() > 0.5
    assert difference(velocity, diffusers_velocity(reference, inputs)) < 1e-4


@pytest.mark.parametrize("timestep", [0.0, 1.0, 499.0, 999.0])
@pytest.mark.parametrize("num_glyphs", [2, 120])
def test_velocity_equals_the_reference_at_every_noise_level(dit, reference, timestep, num_glyphs):
    inputs = random_inputs(2, num_glyphs, (512, 512)) | {"timestep": torch.tensor([timestep])}
    assert difference(dit(**inputs), diffusers_velocity(reference, inputs)) < 1e-4


def test_glyphs_equal_the_reference_where_they_outnumber_the_patches(dit, reference):
    """Among a thousand patches they hardly show, and neither would a mistake."""
    inputs = random_inputs(2, 120, size=(32, 64))
    velocity, expected = dit(**inputs), diffusers_velocity(reference, inputs)
    assert difference(velocity, dit(**random_inputs(2, 9, size=(32, 64)))) > 0.1
    assert difference(velocity, expected) < 2e-5


def test_target_size_and_crop_are_told_in_this_order(dit, reference):
    inputs = random_inputs(3, size=(512, 512))
    moved = inputs | {
        "target_size": torch.tensor([[1024.0, 2048.0]]),
        "crop_coords": torch.tensor([[16.0, 32.0]]),
    }
    assert difference(dit(**moved), diffusers_velocity(reference, moved)) < 1e-4
    assert difference(dit(**moved), dit(**inputs)) > 0.1


@pytest.mark.parametrize("num_references", [1, 4])
def test_velocity_with_references_equals_the_reference(dit, reference, num_references):
    inputs = random_inputs(4)
    sources = random_references(10, REFERENCE_SIZES[:num_references])
    cache = dit.encode_references(*sources)
    velocity = dit(**inputs, reference_cache=cache)
    expected = diffusers_velocity(reference, inputs, diffusers_cache(reference, *sources))
    assert difference(velocity, expected) < 1e-4
    assert difference(velocity, dit(**inputs)) > 0.01


def test_order_and_each_of_the_references_matter(dit):
    latents, ids, sizes = random_references(10, REFERENCE_SIZES)
    keys = dit.encode_references(latents, ids, sizes).keys[-1]
    alone = [
        dit.encode_references([one], [prior], [size]).keys[-1]
        for one, prior, size in zip(latents, ids, sizes, strict=True)
    ]
    assert torch.equal(keys, torch.cat(alone, dim=2))
    assert len({part.sum().item() for part in alone}) == len(alone)


def test_dropped_prior_is_dropped_whatever_the_tokens_are(dit):
    inputs = random_inputs(5, size=(512, 512))
    other = inputs | {"prior_token_ids": inputs["prior_token_ids"].flip(1)}
    dropped = {"prior_drop": torch.tensor([True])}
    assert difference(dit(**inputs), dit(**other)) > 0.1
    assert difference(dit(**inputs | dropped), dit(**other | dropped)) == 0
    assert difference(dit(**inputs), dit(**inputs | dropped)) > 0.1


def test_prior_is_dropped_without_waiting_for_the_device(dit):
    """A boolean index needs the number of true values on the host; `nonzero` is its trace."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as trace:
        dit(**random_inputs(5, size=(512, 512)))
    called = {event.key for event in trace.key_averages()}
    assert "aten::scaled_dot_product_attention" in called
    assert not called & {"aten::nonzero", "aten::_local_scalar_dense", "aten::item", "aten::index"}


def stack(rows):
    """Batch the inputs of several pictures of one size; glyphs are padded on the left."""
    longest = max(row["glyph_embeds"].shape[1] for row in rows)
    embeds, masks = [], []
    for row in rows:
        glyphs = row["glyph_embeds"]
        missing = longest - glyphs.shape[1]
        # padding that would be noticed if it were attended
        embeds.append(torch.cat([torch.full((1, missing, 32), 3.0), glyphs], dim=1))
        masks.append(torch.arange(longest)[None] >= missing)
    batch = {
        name: torch.cat([row[name] for row in rows]) for name in rows[0] if name != "glyph_embeds"
    }
    return batch | {"glyph_embeds": torch.cat(embeds), "glyph_mask": torch.cat(masks)}


def mixed_rows():
    """Three pictures that differ in everything a batch may mix."""
    rows = [random_inputs(6, 2), random_inputs(7, 31), random_inputs(8, 9)]
    rows[1]["prior_drop"] = torch.tensor([True])
    rows[2]["timestep"] = torch.tensor([99.0])
    rows[2]["target_size"] = torch.tensor([[1024.0, 1536.0]])
    return rows


def test_batched_equals_alone(dit):
    rows = mixed_rows()
    batched = dit(**stack(rows))
    for number, row in enumerate(rows):
        assert difference(batched[number : number + 1], dit(**row)) < 1e-5
    unmasked = {**stack(rows), "glyph_mask": None}
    assert difference(dit(**unmasked)[:1], dit(**rows[0])) > 1e-4


def test_batched_with_references_equals_alone(dit):
    rows = mixed_rows()
    caches = [
        dit.encode_references(*random_references(20, REFERENCE_SIZES[:1])),
        None,  # an unconditional row in the same pass
        dit.encode_references(*random_references(30, REFERENCE_SIZES[1:3])),
    ]
    batched = dit(**stack(rows), reference_cache=ReferenceCache.stack(caches))
    for number, (row, cache) in enumerate(zip(rows, caches, strict=True)):
        alone = dit(**row, reference_cache=cache)
        assert difference(batched[number : number + 1], alone) < 1e-5


def test_unconditional_row_reads_no_reference(dit, reference):
    """The known leak: the pass without a prompt must be as if there were no references."""
    inputs = random_inputs(9, size=(512, 512))
    without = inputs | {"prior_drop": torch.tensor([True])}
    cache = dit.encode_references(*random_references(40, REFERENCE_SIZES[:1]))
    both = dit(**stack([inputs, without]), reference_cache=ReferenceCache.stack([cache, None]))
    assert difference(both[1:], diffusers_velocity(reference, without)) < 1e-4
    leaked = dit(**without, reference_cache=cache)
    assert difference(both[1:], leaked) > 0.01


def test_stack_shares_one_cache_and_pads_different_ones(dit):
    cache = dit.encode_references(*random_references(50, [(512, 512)]))
    longer = dit.encode_references(*random_references(51, [(512, 640)]))
    shared = ReferenceCache.stack([cache, cache, cache])
    assert ReferenceCache.stack([None, None]) is None
    assert shared.mask is None
    assert shared.keys[0].data_ptr() == cache.keys[0].data_ptr()
    padded = ReferenceCache.stack([cache, None, longer])
    assert padded.mask.sum(1).tolist() == [1024, 0, 1280]
    assert padded.num_tokens == longer.num_tokens == 1280
    assert cache.num_bytes == 3 * 2 * 1024 * 64 * 4


def test_glyphs_are_not_rotated(dit):
    """Attention does not know the order of unrotated tokens: reversed glyphs change nothing."""
    inputs = random_inputs(11, size=(512, 512))
    reversed_glyphs = inputs | {"glyph_embeds": inputs["glyph_embeds"].flip(1)}
    fewer = inputs | {"glyph_embeds": inputs["glyph_embeds"][:, 1:]}
    assert difference(dit(**inputs), dit(**reversed_glyphs)) < 1e-5
    assert difference(dit(**inputs), dit(**fewer)) > 1e-4


def test_bfloat16_stays_close(dit, tiny_dir):
    half = Checkpoint(tiny_dir).load_dit(dtype=torch.bfloat16)
    inputs = random_inputs(12, size=(512, 512))
    velocity = half(**inputs)
    assert velocity.dtype == torch.float32
    error = (velocity - dit(**inputs)).std() / velocity.std()
    assert 1e-4 < error < 0.05


def test_gradients_reach_every_parameter(dit):
    """The recipe trains this very module."""
    trained = DiT(dit.config)
    trained.load_state_dict(dit.state_dict())
    with torch.enable_grad():
        trained(**random_inputs(13, size=(512, 512))).square().mean().backward()
    missing = [name for name, p in trained.named_parameters() if p.grad is None]
    assert missing == []
