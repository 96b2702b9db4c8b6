"""Adapters in PEFT's format: what we write peft loads, what peft writes we load, and they agree."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from glmimage.errors import InvalidLora
from glmimage.loading.adapters import load_low_ranks, targets_of
from glmimage.loading.checkpoint import Checkpoint
from glmimage.lora import Lora
from glmimage.model.lora import LoraLinear, adapt, merge
from glmimage.training.adapters import Trained

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def checkpoint(tiny_dir):
    return Checkpoint(tiny_dir)


@pytest.fixture
def their_prior(tiny_dir):
    from transformers import GlmImageForConditionalGeneration

    folder = tiny_dir / "vision_language_encoder"
    return GlmImageForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def their_decoder(tiny_dir):
    from diffusers import GlmImageTransformer2DModel

    return GlmImageTransformer2DModel.from_pretrained(tiny_dir / "transformer").eval()


def adapted(network, path, scale=1.0):
    return adapt(network, load_low_ranks(network, [Lora(str(path), scale)], *CPU))


@torch.no_grad()
def written_logits(prior, ids):
    positions = torch.arange(ids.shape[1]).expand(1, 3, -1)
    return prior.head(prior(prior.embed(ids), positions))


@torch.no_grad()
def their_logits(model, ids):
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    return model(input_ids=ids, position_ids=positions).logits


def painted(dit):
    return dit(**some_inputs())


def some_inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(1, 16, 32, 32, generator=generator),
        "glyph_embeds": torch.randn(1, 7, 32, generator=generator),
        "prior_token_ids": torch.randint(256, (1, 256), generator=generator),
        "prior_drop": torch.tensor([False]),
        "timestep": torch.tensor([499.0]),
        "target_size": torch.tensor([[256, 256]]),
        "crop_coords": torch.zeros(1, 2),
    }


@torch.no_grad()
def their_velocity(model):
    inputs = some_inputs()
    drop = torch.zeros_like(inputs["prior_token_ids"], dtype=torch.bool)
    return model(
        hidden_states=inputs["latents"],
        encoder_hidden_states=inputs["glyph_embeds"],
        prior_token_id=inputs["prior_token_ids"],
        prior_token_drop=drop,
        timestep=inputs["timestep"],
        target_size=inputs["target_size"],
        crop_coords=inputs["crop_coords"],
    ).sample


def test_peft_loads_the_prior_s(checkpoint, their_prior, adapters):
    ids = torch.randint(272, 500, (1, 40), generator=torch.Generator().manual_seed(1))
    ours = checkpoint.load_prior()
    base, found = written_logits(ours, ids), written_logits(adapted(ours, adapters / "both"), ids)
    theirs = PeftModel.from_pretrained(their_prior, adapters / "both" / "prior").eval()
    assert (found - their_logits(theirs, ids)).abs().max() < 1e-4
    assert (found - base).abs().max() > 0.1
    assert torch.equal(written_logits(ours, ids), base)
    merged = written_logits(merge(adapted(ours, adapters / "both")), ids)
    assert (merged - their_logits(theirs.merge_and_unload(), ids)).abs().max() < 1e-4
    assert (merged - found).abs().max() < 1e-4


@torch.no_grad()
def test_peft_loads_the_decoder_s(checkpoint, their_decoder, adapters):
    ours = checkpoint.load_dit()
    base, found = painted(ours), painted(adapted(ours, adapters / "both"))
    theirs = PeftModel.from_pretrained(their_decoder, adapters / "both" / "decoder").eval()
    assert (found - their_velocity(theirs)).abs().max() < 1e-4
    assert (found - base).abs().max() > 0.05
    assert torch.equal(painted(ours), base)
    assert (painted(merge(adapted(ours, adapters / "both"))) - found).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("stabilised", [False, True])
def test_we_load_what_peft_writes(checkpoint, their_decoder, tmp_path, stabilised):
    torch.manual_seed(0)
    names = [
        "to_q",
        "to_out.0",
        "ff.net.0.proj",
        "norm1.linear",
        "image_projector.proj",
        "proj_out",
    ]
    config = LoraConfig(
        r=6, lora_alpha=9, target_modules=names, init_lora_weights=False, use_rslora=stabilised
    )
    theirs = get_peft_model(their_decoder, config).eval()
    theirs.save_pretrained(tmp_path / "style" / "decoder")
    ours = checkpoint.load_dit()
    found = painted(adapted(ours, tmp_path / "style"))
    assert (found - their_velocity(theirs)).abs().max() < 1e-4
    assert (found - painted(ours)).abs().max() > 0.05


def test_fresh_adapters_change_nothing_and_half_the_scale_is_half_the_difference(
    checkpoint, adapters
):
    ours = checkpoint.load_dit()
    fresh = Trained(ours, ("to_q", "ff.net.2"), 4, 1.0, 0).network
    low_ranks = load_low_ranks(ours, [Lora(str(adapters / "both"), 0.5)], *CPU)
    twice = load_low_ranks(ours, [Lora(str(adapters / "both"), 0.25)] * 2, *CPU)
    with torch.no_grad():
        assert torch.equal(painted(fresh), painted(ours))
        assert (painted(adapt(ours, low_ranks)) - painted(adapt(ours, twice))).abs().max() < 1e-5
    assert isinstance(fresh.blocks[0].ff_out, LoraLinear)


def test_every_linear_layer_has_a_name_there(checkpoint, their_prior, their_decoder):
    for ours, theirs in (
        (checkpoint.load_prior(), their_prior),
        (checkpoint.load_dit(), their_decoder),
    ):
        modules = dict(theirs.named_modules())
        for name, target in targets_of(ours).items():
            assert tuple(modules[name].weight.shape) == (target.rows, target.columns)


def test_adapters_of_another_model(checkpoint, adapters, tmp_path):
    import shutil

    shutil.copytree(adapters / "both" / "prior", tmp_path / "wrong" / "decoder")
    with pytest.raises(InvalidLora, match="belongs to no linear layer"):
        adapted(checkpoint.load_dit(), tmp_path / "wrong")
    weights = tmp_path / "wrong" / "decoder" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(InvalidLora, match="cannot be read"):
        adapted(checkpoint.load_dit(), tmp_path / "wrong")


def test_adapters_of_another_width(checkpoint, adapters, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(adapters / "both", tmp_path / "wide")
    path = tmp_path / "wide" / "prior" / "adapter_model.safetensors"
    tensors = load_file(path)
    for wrong in (torch.zeros(4, 7), torch.zeros(4)):
        key = next(key for key in tensors if "lora_A" in key)
        save_file(tensors | {key: wrong}, path)
        with pytest.raises(InvalidLora, match="beside a layer"):
            adapted(checkpoint.load_prior(), tmp_path / "wide")
