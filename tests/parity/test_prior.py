"""The autoregressive model against transformers: positions, logits, tokens, any batch."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GlmImageConfig, GlmImageForConditionalGeneration

from glmimage.loading.checkpoint import Checkpoint
from glmimage.model.config import PriorConfig
from glmimage.model.prior import PRIOR_TENSORS, KVCache, PriorModel, upsample_prior
from glmimage.model.sampling import RandomStream, SamplingConfig, sample, sorted_distribution
from glmimage.prompt import PromptEncoder, fill_sources

CASES = {  # name -> (height, width, sizes (width, height) of the references)
    "text": (128, 256, []),
    "text tall": (512, 128, []),
    "one reference": (160, 96, [(512, 512)]),
    "four references": (96, 224, [(512, 512), (700, 300), (300, 1200), (640, 520)]),
}


@pytest.fixture(scope="module", autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def encoder(reference):
    return reference.vision_language_encoder.eval()


@pytest.fixture(scope="module")
def prior(tiny_dir):
    return Checkpoint(tiny_dir).load_prior()


@pytest.fixture(scope="module")
def prompts(reference):
    return PromptEncoder(reference.processor)


@pytest.fixture(scope="module")
def sampling(tiny_dir):
    return SamplingConfig.from_dict(Checkpoint(tiny_dir).generation_config)


def prior_like(encoder):
    """Build ours with the tensors of a transformers model, through the published table."""
    config = PriorConfig.from_dict(json.loads(encoder.config.to_json_string(use_diff=False)))
    ours, theirs = PriorModel(config), encoder.state_dict()
    state = {}
    for name in ours.state_dict():
        layer = "".join(re.findall(r"layers\.(\d+)\.", name))
        sources = PRIOR_TENSORS[re.sub(r"layers\.\d+\.", "layers.{i}.", name)]
        state[name] = torch.cat([theirs[source.replace("{i}", layer)] for source in sources])
    ours.load_state_dict(state)
    return ours.eval()


def pictures(sizes, seed=0):
    rng = np.random.default_rng(seed)
    # coarse blobs: neighbouring patches differ, unlike in noise, where all look alike
    coarse = [rng.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in sizes]
    return [Image.fromarray(c).resize(s, Image.BICUBIC) for c, s in zip(coarse, sizes, strict=True)]


def their_inputs(processor, prompt, height, width, images):
    content = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        tokenize=True,
        return_dict=True,
        processor_kwargs={"target_h": height, "target_w": width, "return_tensors": "pt"},
    )


def our_inputs(prompts, encoder, prompt, height, width, images):
    inputs = prompts.encode(prompt, height, width, images)
    if not images:
        return inputs
    features = encoder.model.get_image_features(
        inputs.pixel_values, inputs.source_grid_thw, return_dict=True
    ).pooler_output
    ids = encoder.model.get_image_tokens(features)
    return fill_sources(inputs, ids.split([h * w for h, w in inputs.source_grids]))


def random_tokens(count, seed):
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, reference, encoder, prompts):
    """One prompt for both sides: (ours, theirs)."""
    height, width, sizes = CASES[request.param]
    images, prompt = pictures(sizes), f"A sign that says 'OPEN' ({request.param})"
    theirs = their_inputs(reference.processor, prompt, height, width, images)
    return our_inputs(prompts, encoder, prompt, height, width, images), theirs


def test_positions_are_the_references(case, encoder):
    ours, theirs = case
    positions, _ = encoder.model.get_rope_index(
        ours.input_ids[None],
        image_grid_thw=theirs["image_grid_thw"],
        images_per_sample=theirs["images_per_sample"],
        attention_mask=theirs["attention_mask"],
    )
    assert torch.equal(ours.position_ids, positions[:, 0])
    # theirs has one more, for the end marker: it is predicted, but nothing is predicted from it
    decode = encoder.model._cached_decode_position_ids[0]
    assert torch.equal(ours.decode_position_ids, decode[:, :-1])


def test_logits_of_the_whole_sequence(case, encoder, prior):
    """Prefill, then cached decoding of every token, each against transformers' own cache."""
    ours, theirs = case
    tokens = random_tokens(ours.num_tokens, seed=1)
    cache = KVCache(prior.config, 1, ours.max_length)
    hidden = prior(prior.embed(ours.input_ids[None]), ours.position_ids[None], cache)
    output = encoder(**theirs, use_cache=True)
    expected, found = [output.logits[0]], [prior.head(hidden)[0]]
    extra = {key: theirs[key] for key in ("image_grid_thw", "images_per_sample")}
    for step, token in enumerate(tokens[:-1]):
        output = encoder(
            token.view(1, 1), past_key_values=output.past_key_values, use_cache=True, **extra
        )
        position = ours.decode_position_ids[:, step].view(1, 3, 1)
        hidden = prior(prior.embed(token.view(1, 1)), position, cache)
        expected.append(output.logits[0])
        found.append(prior.logits(hidden[:, 0]))
    expected, found = torch.cat(expected), torch.cat(found)
    assert found.shape == (ours.max_length, prior.config.vision_vocab_size)
    assert expected.std() > 0.1  # else the bound below would mean nothing
    assert (found - expected).abs().max() < 1e-4

    # and in one pass without a cache
    ids = torch.cat((ours.input_ids, tokens[:-1]))[None]
    positions = torch.cat((ours.position_ids, ours.decode_position_ids[:, :-1]), dim=1)[None]
    whole = prior.head(prior(prior.embed(ids), positions))[0]
    assert (whole - expected).abs().max() < 1e-4


def write(prior, inputs, sampling, uniform, temperature=None, bias=None):
    """The prior stage in its smallest form: one image, one slot."""
    temperature = sampling.temperature if temperature is None else temperature
    suppress = sampling.suppress_mask(prior.config.vision_vocab_size, 256)
    cache = KVCache(prior.config, 1, inputs.max_length)
    embeds, positions = prior.embed(inputs.input_ids[None]), inputs.position_ids[None]
    tokens = []
    for index in range(inputs.num_tokens):
        logits = prior.logits(prior(embeds, positions, cache)[:, -1])
        logits = logits if bias is None else logits + bias[index]
        logits = logits.masked_fill(suppress, -torch.inf)
        token = sample(logits, [temperature], [sampling.top_p], sampling.top_k, [uniform(index)])
        tokens.append(token)
        embeds = prior.embed(token[None])
        positions = inputs.decode_position_ids[None, :, index, None]
    return torch.cat(tokens)


def read(output, inputs):
    """Cut what generate() wrote off its prompt, and its end marker off that."""
    return output[0, inputs.input_ids.numel() :][: inputs.num_tokens]


@pytest.mark.filterwarnings("ignore")
def test_greedy_tokens(case, encoder, prior, sampling):
    ours, theirs = case
    found = write(prior, ours, sampling, lambda position: 0.5, temperature=0.0)
    output = encoder.generate(**theirs, max_new_tokens=ours.num_tokens + 1, do_sample=False)
    assert torch.equal(found, read(output, ours))
    # and what generate() does when it samples among one, as the diffusers pipeline would
    output = encoder.generate(
        **theirs, max_new_tokens=ours.num_tokens + 1, do_sample=True, top_k=1, top_p=1.0
    )
    assert torch.equal(found, read(output, ours))


@pytest.mark.filterwarnings("ignore")
def test_greedy_tokens_that_never_settle(case, reference, encoder, prior, sampling):
    """A random model soon repeats one token; a bias that changes every step keeps it moving."""
    ours, theirs = case
    shape = (ours.num_tokens + 1, prior.config.vision_vocab_size)
    bias = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = write(prior, ours, sampling, lambda position: 0.5, temperature=0.0, bias=bias)
    output = encoder.generate(
        **theirs,
        max_new_tokens=ours.num_tokens + 1,
        do_sample=False,
        logits_processor=[lambda ids, scores: scores + bias[ids.shape[1] - len(ours.input_ids)]],
    )
    assert torch.equal(found, read(output, ours))
    assert len(found.unique()) > len(found) / 4

    # The slice is off by the small grid as soon as the grids are taken in the other order, and
    # the picture would still look plausible; so it is compared with the pipeline's own.
    _, offset, height, width = reference._compute_generation_params(
        theirs["image_grid_thw"], is_text_to_image=ours.small_grid is not None
    )
    large = reference._extract_large_image_tokens(
        output, len(ours.input_ids), offset, height * width
    )
    assert ours.large_grid == (height, width)
    assert torch.equal(ours.large_tokens(found), large)
    upsampled = reference._upsample_token_ids(large, height, width)[0]
    assert torch.equal(upsample_prior(large, ours.large_grid), upsampled)


@pytest.mark.filterwarnings("ignore")
def test_ours_alone_equals_theirs_in_a_padded_batch(reference, encoder, prompts, prior, sampling):
    """generate() pads the shorter prompt on the left; ours has no padding, and the same tokens."""
    texts = ["short", "a longer prompt that says 'LONGER'"]
    theirs = reference.processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts],
        tokenize=True,
        return_dict=True,
        processor_kwargs={
            "target_h": 64,
            "target_w": 96,
            "return_tensors": "pt",
            "padding": True,
        },
    )
    rows = [prompts.encode(text, 64, 96) for text in texts]
    count, width = rows[0].num_tokens, theirs["input_ids"].shape[1]
    assert len(rows[0].input_ids) < width == len(rows[1].input_ids)
    bias = 2 * torch.randn(
        count + 1, prior.config.vision_vocab_size, generator=torch.Generator().manual_seed(1)
    )
    output = encoder.generate(
        **theirs,
        max_new_tokens=count + 1,
        do_sample=False,
        logits_processor=[lambda ids, scores: scores + bias[ids.shape[1] - width]],
    )
    for row, inputs in enumerate(rows):
        found = write(prior, inputs, sampling, lambda position: 0.5, temperature=0.0, bias=bias)
        assert torch.equal(found, output[row, width : width + count])


def test_the_filters_that_generate_really_applies(encoder, sampling):
    """Also what generation_config.json does not say: transformers keeps 50 tokens by default."""
    config, _ = encoder._prepare_generation_config(None, do_sample=True)
    processors = encoder._get_logits_processor(config, input_ids_seq_length=3)
    logits = 3 * torch.randn(8, 272, generator=torch.Generator().manual_seed(0))
    expected = processors(torch.zeros(8, 3, dtype=torch.long), logits).softmax(-1)
    suppress = sampling.suppress_mask(272, 256)
    weights, ids = sorted_distribution(
        logits.masked_fill(suppress, -torch.inf),
        [sampling.temperature] * 8,
        [sampling.top_p] * 8,
        sampling.top_k,
    )
    found = torch.zeros_like(logits).scatter(-1, ids, weights / weights.sum(-1, keepdim=True))
    assert (found - expected).abs().max() < 1e-6
    assert sampling.top_k == 50
    # flat logits, where the 50 decide and not top_p
    flat = logits / 100
    kept = (processors(torch.zeros(8, 3, dtype=torch.long), flat) > -torch.inf).sum(-1)
    weights, _ = sorted_distribution(
        flat.masked_fill(suppress, -torch.inf), [0.9] * 8, [0.75] * 8, sampling.top_k
    )
    assert torch.equal((weights > 0).sum(-1), kept)
    assert kept.max() < 50


def test_every_image_draws_its_own_prior(prompts, encoder, prior, sampling):
    """Images of one prompt share nothing but the prompt; the same seed writes the same prior."""
    inputs = our_inputs(prompts, encoder, "four of a kind", 64, 64, [])
    first, again, other = (
        write(prior, inputs, sampling, RandomStream(seed).uniform) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.3


def requests(prompts, encoder):
    """Five rows of different lengths and kinds, with how many steps each stays."""
    settings = [
        ("a", 64, 64, [], 23),
        ("a far longer prompt, with 'words' in it, over many tokens", 96, 64, [], 9),
        ("one", 64, 96, [(512, 512)], 5),
        ("two", 128, 64, [(512, 600), (300, 520)], 7),
        ("last", 64, 128, [], 12),
    ]
    for number, (prompt, height, width, sizes, steps) in enumerate(settings):
        inputs = our_inputs(prompts, encoder, prompt, height, width, pictures(sizes, number))
        yield inputs, random_tokens(steps, seed=number)


def alone(prior, inputs, tokens):
    cache = KVCache(prior.config, 1, inputs.max_length)
    hidden = prior(prior.embed(inputs.input_ids[None]), inputs.position_ids[None], cache)
    found = [prior.logits(hidden[:, -1])]
    for step, token in enumerate(tokens):
        position = inputs.decode_position_ids[None, :, step, None]
        found.append(prior.logits(prior(prior.embed(token.view(1, 1)), position, cache)[:, 0]))
    return torch.cat(found)


def crowd(prior, rows, num_slots, one_product):
    """Decode all rows through few slots: one enters whenever a slot is free, at any step."""
    cache = KVCache(prior.config, num_slots, max(inputs.max_length for inputs, _ in rows))
    cache.one_product = one_product
    cache.buffer.fill_(1e3)  # what earlier rows leave behind must never be seen
    start, found = cache.buffer.data_ptr(), [[] for _ in rows]
    waiting, active = list(range(len(rows))), {}
    while waiting or active:
        if waiting and len(active) < num_slots:
            slot = next(s for s in reversed(range(num_slots)) if s not in active)
            active[slot], inputs = waiting[0], rows[waiting[0]][0]
            embeds = prior.embed(inputs.input_ids[None])
            hidden = prior(embeds, inputs.position_ids[None], cache, [slot])
            found[waiting.pop(0)].append(prior.logits(hidden[:, -1]))
        slots = sorted(active, key=lambda slot: len(found[active[slot]]))
        steps = [len(found[active[slot]]) - 1 for slot in slots]
        places = [rows[active[slot]] for slot in slots]
        tokens = [tokens[step] for (_, tokens), step in zip(places, steps, strict=True)]
        positions = [
            inputs.decode_position_ids[:, step, None]
            for (inputs, _), step in zip(places, steps, strict=True)
        ]
        embeds = prior.embed(torch.stack(tokens)[:, None])
        hidden = prior(embeds, torch.stack(positions), cache, torch.tensor(slots))
        for slot, logits in zip(slots, prior.logits(hidden[:, 0]), strict=True):
            row = active[slot]
            found[row].append(logits[None])
            if len(found[row]) == len(rows[row][1]) + 1:
                cache.free(slot)
                del active[slot]
    assert cache.buffer.data_ptr() == start
    return [torch.cat(logits) for logits in found]


@pytest.mark.parametrize("one_product", [False, True], ids=["row-by-row", "one-product"])
@pytest.mark.parametrize("num_slots", [2, 3, 5])
def test_a_row_never_depends_on_its_batch_mates(prompts, encoder, prior, num_slots, one_product):
    rows = list(requests(prompts, encoder))
    expected = [alone(prior, inputs, tokens) for inputs, tokens in rows]
    for ours, theirs in zip(expected, crowd(prior, rows, num_slots, one_product), strict=True):
        assert (ours - theirs).abs().max() < 1e-5


def test_a_prompt_may_be_read_in_pieces(prompts, encoder, prior):
    inputs = our_inputs(prompts, encoder, "a prompt in three pieces", 64, 64, [])
    embeds, positions = prior.embed(inputs.input_ids[None]), inputs.position_ids[None]
    whole = prior(embeds, positions, KVCache(prior.config, 1, inputs.max_length))
    cache = KVCache(prior.config, 3, inputs.max_length)
    edges = [0, 7, 8, embeds.shape[1]]
    parts = [
        prior(embeds[:, a:b], positions[:, :, a:b], cache, [2])
        for a, b in itertools.pairwise(edges)
    ]
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-5
    assert cache.lengths == [0, 0, embeds.shape[1]]


@pytest.mark.parametrize("one_product", [False, True], ids=["row-by-row", "one-product"])
def test_bfloat16_decodes_what_float32_does(tiny_dir, prompts, encoder, prior, one_product):
    """Three rows, so that nothing is padded to their number by chance; within bfloat16's digits."""
    rows = list(requests(prompts, encoder))[:3]
    narrow = Checkpoint(tiny_dir).load_prior(dtype=torch.bfloat16)
    cache = KVCache(narrow.config, 3, max(r.max_length for r, _ in rows), dtype=torch.bfloat16)
    cache.one_product = one_product
    for slot, (inputs, _) in enumerate(rows):
        narrow(narrow.embed(inputs.input_ids[None]), inputs.position_ids[None], cache, [slot])
    tokens = torch.stack([tokens[0] for _, tokens in rows])
    positions = torch.stack([inputs.decode_position_ids[:, :1] for inputs, _ in rows])
    found = narrow.logits(narrow(narrow.embed(tokens[:, None]), positions, cache)[:, 0])
    expected = torch.cat([alone(prior, inputs, tokens[:1])[1:] for inputs, tokens in rows])
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 < expected.std()


def test_the_cache_refuses_what_it_cannot_hold(prior):
    cache = KVCache(prior.config, 2, 8)
    embeds, positions = torch.zeros(1, 9, 128), torch.zeros(1, 3, 9, dtype=torch.long)
    with pytest.raises(ValueError, match="0 \\+ 9 positions do not fit a cache of 8"):
        prior(embeds, positions, cache, [0])
    with pytest.raises(ValueError, match="twice"):
        prior(embeds[:, :1].expand(2, -1, -1), positions[:, :, :1].expand(2, -1, -1), cache, [1, 1])
    assert cache.lengths == [0, 0]
    assert cache.num_bytes == 3 * 2 * 8 * 2 * 2 * 32 * 4


def test_the_table_names_every_tensor_once(encoder, prior):
    theirs = {
        name
        for name in encoder.state_dict()
        if name.startswith(("model.language_model.", "lm_head."))
    }
    expanded = []
    for sources in PRIOR_TENSORS.values():
        for source in sources:
            layers = range(prior.config.num_layers) if "{i}" in source else [0]
            expanded += [source.replace("{i}", str(layer)) for layer in layers]
    assert sorted(expanded) == sorted(theirs)
    ours = {re.sub(r"layers\.\d+\.", "layers.{i}.", name) for name in prior.state_dict()}
    assert ours == set(PRIOR_TENSORS)


SHAPES = {
    "many sections": {"mrope_section": [1] * 16, "partial_rotary_factor": 1.0},
    "two sections": {"mrope_section": [5, 3], "partial_rotary_factor": 0.5},
    "odd sections": {"mrope_section": [3, 1, 2, 1, 5], "partial_rotary_factor": 0.75},
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_other_shapes(shape, kv_heads):
    """Any list of sections, any share of rotated channels, any grouping of heads, no biases."""
    config = GlmImageConfig(
        text_config={
            "vocab_size": 96,
            "vision_vocab_size": 64,
            "hidden_size": 48,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": kv_heads,
            "head_dim": 32,
            "attention_bias": kv_heads == 1,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, **SHAPES[shape]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16},
        vq_config={"embed_dim": 8, "num_embeddings": 32, "latent_channels": 16},
    )
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        theirs = GlmImageForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.2, generator=generator)
    ours = prior_like(theirs)
    ids = torch.randint(0, 96, (2, 30), generator=generator)
    positions = torch.randint(0, 90, (2, 3, 30), generator=generator)
    expected = theirs.lm_head(
        theirs.model.language_model(
            inputs_embeds=theirs.model.language_model.embed_tokens(ids),
            position_ids=positions.transpose(0, 1),
        ).last_hidden_state
    )
    cache = KVCache(ours.config, 2, 30)
    hidden = [ours(ours.embed(ids[:, :20]), positions[:, :, :20], cache)]
    for step in range(20, 30):
        at = slice(step, step + 1)
        hidden.append(ours(ours.embed(ids[:, at]), positions[:, :, at], cache))
    assert expected.std() > 0.1
    assert (ours.head(torch.cat(hidden, dim=1)) - expected).abs().max() < 1e-4
    assert (ours.head(ours(ours.embed(ids), positions)) - expected).abs().max() < 1e-4


def test_no_global_random_state(prompts, encoder, prior, sampling):
    inputs = our_inputs(prompts, encoder, "quiet", 64, 64, [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = write(prior, inputs, sampling, RandomStream(9).uniform)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        assert torch.equal(first, write(prior, inputs, sampling, RandomStream(9).uniform))
