"""Training on the toy checkpoint: it learns, goes on where it stopped, and says what is wrong."""

import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glmimage.errors import GlmImageError, InvalidLora, InvalidSettings, OutputError
from glmimage.loading.checkpoint import Checkpoint
from glmimage.lora import PARTS
from glmimage.training import loop
from glmimage.training.adapters import Trained
from glmimage.training.dataset import read_folder
from glmimage.training.encoding import encode_pictures, read_tokens
from glmimage.training.objectives import DecoderObjective, PriorObjective, stack_glyphs
from glmimage.training.progress import Saved, Stepped


def losses(events, part):
    return [event.loss for event in events if isinstance(event, Stepped) and event.part == part]


def adapters(out, part):
    return load_file(out / part / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def drain(generator):
    """Return what a generator of events returns in the end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


@pytest.fixture
def items(folder, tiny_dir):
    """Give two pictures of a size, and what they look like to either part."""
    examples = read_folder(folder(), 512)
    checkpoint = Checkpoint(tiny_dir)
    where = torch.device("cpu"), torch.float32
    written = drain(read_tokens(checkpoint, examples, *where))
    return checkpoint, written, drain(encode_pictures(checkpoint, examples, written, *where))


def test_both_parts_learn(folder, train, tmp_path):
    events = train(folder(), steps=6, batch=2, validation=0.0, drop=0.0)
    for part in PARTS:
        found = losses(events, part)
        assert len(found) == 6
        assert found[-1] < found[0] - 0.1
        rows = (tmp_path / "adapters" / part / "log.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["step"] == 6
    assert [event.part for event in events if isinstance(event, Saved)] == list(PARTS)


def test_going_on_equals_never_having_stopped(folder, train, tmp_path):
    pictures = folder([(512, 512), (512, 512), (544, 512)])
    options = {"steps": 3, "batch": 2, "validation": 0.34, "save_every": 1}
    whole = train(pictures, "whole", **options)
    for part, answers in (("prior", [True]), ("decoder", [False, True])):
        stop = iter(answers).__next__
        stopped = train(pictures, "parts", should_stop=stop, parts=(part,), resume=True, **options)
        assert [event.step for event in stopped if isinstance(event, Saved)] == [1]
    gone_on = train(pictures, "parts", resume=True, **options)
    for part in PARTS:
        assert losses(gone_on, part) == losses(whole, part)[1:]
        assert same(adapters(tmp_path / "whole", part), adapters(tmp_path / "parts", part))
        logs = [(tmp_path / name / part / "log.jsonl").read_text() for name in ("whole", "parts")]
        assert logs[0] == logs[1]
        assert '"validation"' in logs[0]
    # nothing is left to learn, and the prior tokens are not read again
    left = train(pictures, "parts", resume=True, **options)
    assert [event.what for event in left] == ["latents"] * 3


def test_accumulated_batches_are_one_step(items):
    """Two batches of one are as one of two: the prior's loss is a mean over tokens."""
    checkpoint, written, _ = items
    gradients = []
    for batches in ([written], [written[:1], written[1:]]):
        trained = Trained(checkpoint.load_prior(), ("q_proj", "down_proj"), 4, 1.0, 0)
        objective = PriorObjective(trained.network)
        for batch in batches:
            (objective.loss(batch, torch.Generator()) / len(batches)).backward()
        gradients.append([p.grad for p in trained.parameters() if p.grad is not None])
    assert len(gradients[0]) == 12
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("part", PARTS)
def test_activations_computed_again_give_the_same_gradients(items, part):
    checkpoint, written, painted = items
    gradients = []
    for forgets in (False, True):
        if part == "prior":
            network, targets = checkpoint.load_prior(), ("q_proj", "o_proj", "gate_up_proj")
        else:
            network, targets = checkpoint.load_dit(), ("to_k", "ff.net.0.proj", "norm1.linear")
        trained = Trained(network, targets, 4, 1.0, 0)
        for _, up in trained.pairs.values():  # zeros let nothing through to the other half
            up.data.normal_(generator=torch.Generator().manual_seed(1))
        if forgets:
            trained.forget_activations()
        if part == "prior":
            loss = PriorObjective(trained.network).loss(written[:1], torch.Generator())
        else:
            nothing = checkpoint.load_glyph().encode(())
            objective = DecoderObjective(trained.network, checkpoint.scheduler_config, nothing, 0)
            loss = objective.loss(painted[:1], torch.Generator().manual_seed(0))
        loss.backward()
        gradients.append([p.grad for p in trained.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)


def test_only_the_adapters_learn(items):
    checkpoint, written, _ = items
    network = checkpoint.load_prior()
    trained = Trained(network, ("o_proj",), 4, 1.0, 0)
    PriorObjective(trained.network).loss(written[:1], torch.Generator()).backward()
    assert all(p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for p in network.parameters())
    assert {p.dtype for p in trained.parameters()} == {torch.float32}


def test_the_prior_is_asked_what_inference_asks(items, tiny_dir):
    """The loss is that of the tokens under the logits with which the token loop draws them."""
    from glmimage.model.prior import KVCache

    checkpoint, written, _ = items
    prior, item = checkpoint.load_prior(), written[0]
    loss = PriorObjective(prior).loss([item], torch.Generator())
    count = 24
    cache = KVCache(prior.config, 1, len(item.input_ids) + count)
    length = len(item.input_ids)
    positions = item.position_ids[None]
    hidden = prior(prior.embed(item.input_ids)[None], positions[:, :, :length], cache)
    scores = [prior.logits(hidden[:, -1])]
    for index, token in enumerate(item.tokens[: count - 1]):
        where = positions[:, :, length + index : length + index + 1]
        hidden = prior(prior.embed(token[None])[None], where, cache)
        scores.append(prior.logits(hidden[:, -1]))
    stepwise = torch.nn.functional.cross_entropy(torch.cat(scores), item.tokens[:count])
    short = type(item)(
        item.input_ids, item.tokens[:count], item.position_ids, item.large_tokens, item.large_grid
    )
    assert abs(PriorObjective(prior).loss([short], torch.Generator()) - stepwise) < 1e-4
    assert abs(loss - stepwise) > 1e-4


def test_a_batch_of_unequal_captions_is_as_each_alone(items):
    checkpoint, written, _ = items
    assert len(written[0].input_ids) != len(written[1].input_ids)
    prior = PriorObjective(checkpoint.load_prior())
    alone = [prior.loss([item], torch.Generator()) for item in written]
    assert abs(prior.loss(written, torch.Generator()) - sum(alone) / 2) < 1e-5


def test_glyphs_of_unequal_length_are_read_as_each_alone(items):
    checkpoint, _, painted = items
    short, long = (one.glyph_embeds for one in painted)
    assert len(short) != len(long)
    embeds, mask = stack_glyphs([short, long])
    dit, item = checkpoint.load_dit(), painted[0]
    inputs = {
        "latents": item.latents[None],
        "prior_token_ids": item.prior_token_ids[None],
        "prior_drop": torch.tensor([False]),
        "timestep": torch.tensor([500.0]),
        "target_size": torch.tensor([[512, 512]]),
        "crop_coords": torch.zeros(1, 2),
    }
    for row, glyphs in enumerate((short, long)):
        alone = dit(glyph_embeds=glyphs[None], **inputs)
        rows = {"glyph_embeds": embeds[row : row + 1], "glyph_mask": mask[row : row + 1]}
        assert (dit(**rows, **inputs) - alone).abs().max() < 1e-5
    assert stack_glyphs([short, short])[1] is None


def test_a_dropped_picture_has_neither_tokens_nor_glyphs(items):
    checkpoint, _, painted = items
    nothing = checkpoint.load_glyph().encode(())
    dit = checkpoint.load_dit()
    item = painted[1]
    other = type(item)(
        item.latents, item.prior_token_ids.flip(0), painted[0].glyph_embeds, 512, 512
    )
    for drop, equal in ((1.0, True), (0.0, False)):
        objective = DecoderObjective(dit, checkpoint.scheduler_config, nothing, drop)
        found = [objective.loss([one], torch.Generator().manual_seed(3)) for one in (item, other)]
        assert torch.equal(*found) is equal


def test_tokens_are_read_from_the_twin(folder, tiny_dir):
    directory = folder()
    where = Checkpoint(tiny_dir), torch.device("cpu"), torch.float32
    plain = drain(read_tokens(where[0], read_folder(directory, 512), *where[1:]))
    Image.open(directory / "1.png").save(directory / "0.prior.png")
    mixed = drain(read_tokens(where[0], read_folder(directory, 512), *where[1:]))
    assert torch.equal(mixed[0].tokens, plain[1].tokens)
    assert not torch.equal(mixed[0].tokens, plain[0].tokens)


def test_tokens_are_those_of_a_reference_and_the_small_grid_its_own(folder, tiny_dir):
    checkpoint = Checkpoint(tiny_dir)
    examples = read_folder(folder([(768, 512)]), 627)
    where = torch.device("cpu"), torch.float32
    (item,) = drain(read_tokens(checkpoint, examples, *where))
    inputs = checkpoint.load_prompt().encode("x", 512, 768, [examples[0].picture()])
    (ids,) = checkpoint.load_vision()(inputs.pixel_values, inputs.source_grid_thw)
    assert item.large_grid == (16, 24)
    assert torch.equal(item.large_tokens, ids)
    assert len(item.tokens) == 13 * 19 + 16 * 24
    assert torch.equal(item.tokens[13 * 19 :], ids)
    assert item.position_ids.shape[1] == len(item.input_ids) + len(item.tokens)


def test_other_options_do_not_go_on(folder, train):
    pictures = folder()
    train(pictures, steps=1, parts=("prior",))
    with pytest.raises(InvalidSettings, match="holds a training already") as caught:
        train(pictures, steps=1, parts=("prior",))
    assert "--resume" in caught.value.hint
    with pytest.raises(InvalidSettings, match="trained with rank 4, not 8"):
        train(pictures, steps=1, parts=("prior",), resume=True, rank=8)


def test_a_damaged_state_is_no_traceback(folder, train, tmp_path):
    pictures = folder()
    train(pictures, steps=1, parts=("prior",))
    (tmp_path / "adapters/prior/training.pt").write_bytes(b"damaged")
    with pytest.raises(InvalidSettings, match="cannot be gone on from"):
        train(pictures, steps=2, parts=("prior",), resume=True)


def test_a_folder_of_other_files_is_not_written_over(folder, train, tmp_path):
    (tmp_path / "adapters/prior").mkdir(parents=True)
    (tmp_path / "adapters/prior/notes.txt").write_text("mine")
    with pytest.raises(InvalidSettings, match="holds files already"):
        train(folder(), steps=1)


def test_a_full_disk_keeps_the_last_checkpoint(folder, train, tmp_path, monkeypatch):
    pictures = folder()
    train(pictures, steps=1, parts=("prior",))
    before = adapters(tmp_path / "adapters", "prior")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_adapter", full)
    with pytest.raises(OutputError, match=r"step 2 cannot be saved .* No space left on device"):
        train(pictures, steps=2, parts=("prior",), resume=True)
    assert same(before, adapters(tmp_path / "adapters", "prior"))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"rank": 0}, InvalidSettings, "--rank is 0"),
        ({"steps": 0}, InvalidSettings, "--steps is 0"),
        ({"learning_rate": float("nan")}, InvalidSettings, "--learning-rate is nan"),
        ({"resolution": 256}, InvalidSettings, "--resolution is 256"),
        ({"validation": 1.0}, InvalidSettings, "--validation is 1.0"),
        ({"parts": ("vae",)}, InvalidSettings, "prior, decoder or both"),
        ({"prior_targets": ("absent",)}, InvalidLora, "No layer of the prior is called 'absent'"),
        ({"rank": 200}, InvalidLora, "A rank of 200 is more than layer"),
    ],
)
def test_wrong_options(folder, train, options, kind, words):
    with pytest.raises(kind, match=words):
        train(folder(), **{"steps": 1} | options)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folder, train, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Cannot write"):
        train(folder(), "closed/adapters", steps=1)


def test_a_loss_that_is_no_number_stops(folder, train, monkeypatch):
    def lost(self, items, generator):
        return 0 * sum(p.sum() for p in self.prior.parameters()) + float("nan")

    monkeypatch.setattr(PriorObjective, "loss", lost)
    with pytest.raises(GlmImageError, match="no number at step 1"):
        train(folder(), steps=1, parts=("prior",))
