"""The decoder's velocity equals diffusers' to 1e-4, and a picture never depends on its batch."""

import pytest
import torch
from torch import Tensor

from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.dit import DiT, _modulate_stream, _rotary_table
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


def velocity_beside(dit, inputs, latents, prior_token_ids, sizes):
    """Run the references through each layer beside the picture, with nothing kept of them."""
    inputs = {**inputs}
    grid = inputs.pop("latents")
    names = ("timestep", "target_size", "crop_coords")
    timestep, *sizes_of_picture = (inputs.pop(name) for name in names)
    context = dit.prepare(**inputs)
    (times,) = dit.prepare_times(timestep[None], *sizes_of_picture)
    zero, rows = torch.zeros(1, 2), []
    for latent, ids, size in zip(latents, prior_token_ids, sizes, strict=True):
        (at_zero,) = dit.prepare_times(zero[:, :1], torch.tensor([size]).float(), zero)
        x = dit._patches(latent[None]) + dit._prior(ids[None], torch.tensor([False]))
        rows.append((x, at_zero, latent[None]))
    num_text = context.text.shape[1]
    x = torch.cat([context.text, dit._patches(grid) + context.prior], dim=1)
    for index, block in enumerate(dit.blocks):
        pairs = []
        for number, (one, at_zero, latent) in enumerate(rows):
            rotary = dit._rotary_tables(latent, 0)
            one, pair = block(one, 0, at_zero.blocks[index], rotary, None, None)
            rows[number] = one, at_zero, latent
            pairs.append(pair)
        past = tuple(torch.cat(side, dim=2) for side in zip(*pairs, strict=True))
        rotary = dit._rotary_tables(grid, num_text)
        x, _ = block(x, num_text, times.blocks[index], rotary, context.mask, past)
    scale, shift = times.final.chunk(2, dim=1)
    return dit._unpatch(dit.patch_out(_modulate_stream(x[:, num_text:], shift, scale)), grid)


def test_kept_keys_and_values_equal_references_computed_at_every_step(dit):
    """At any time and of any text, since they see neither."""
    sources = random_references(60, REFERENCE_SIZES[:2])
    cache = dit.encode_references(*sources)
    for timestep, num_glyphs in ((999.0, 3), (420.0, 9), (7.0, 1)):
        inputs = random_inputs(14, num_glyphs, (512, 544)) | {"timestep": torch.tensor([timestep])}
        kept = dit(**inputs, reference_cache=cache)
        assert difference(kept, velocity_beside(dit, inputs, *sources)) < 1e-5
        assert difference(kept, dit(**inputs)) > 0.01


def test_kept_rotary_tables_equal_new_ones(dit):
    """Of sizes with as many patches, with and without text, and of more sizes than are kept."""
    alike = [(512, 1024), (1024, 512), (2048, 256)]
    many = [(512 + 32 * number, 512) for number in range(70)]
    head_dim = dit.config.attention_head_dim
    for number, (height, width) in enumerate([*alike, *alike, *many, *alike]):
        latents, num_text = torch.empty(1, 16, height // 8, width // 8), 3 * (number % 2)
        cos, sin = dit._rotary_tables(latents, num_text)
        expected = _rotary_table(height // 16, width // 16, latents.device, head_dim, dit.dtype)
        assert torch.equal(cos[num_text:], expected[0])
        assert torch.equal(sin[num_text:], expected[1])
        assert torch.equal(cos[:num_text], torch.ones(num_text, 1, head_dim))
        assert not sin[:num_text].any()
    assert len(dit._rotary) <= 64


@pytest.mark.parametrize("rows", [1, 2])
def test_modulation_of_all_steps_at_once_equals_each_step_s_own(dit, rows):
    timesteps = torch.linspace(999.0, 0.0, 30)[:, None].repeat(1, rows)
    target_size = torch.tensor([[512.0, 768.0], [1024.0, 1536.0]])[:rows]
    crop_coords = torch.tensor([[0.0, 0.0], [16.0, 32.0]])[:rows]
    at_once = dit.prepare_times(timesteps, target_size, crop_coords)
    assert len(at_once) == 30
    for times, timestep in zip(at_once, timesteps, strict=True):
        condition = dit._condition(timestep, target_size, crop_coords)
        for block, modulation in zip(dit.blocks, times.blocks, strict=True):
            assert difference(modulation.flatten(1), block.modulation(condition)) < 1e-5
        assert difference(times.final, dit.final_modulation(condition)) < 1e-5
    assert difference(at_once[0].final, at_once[15].final) > 1e-3


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
