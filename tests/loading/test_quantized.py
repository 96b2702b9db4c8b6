"""Packed weights: what is lost, what it takes, and the public 4-bit format."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glmimage.errors import CheckpointInvalid
from glmimage.loading.checkpoint import Checkpoint
from glmimage.loading.quantized import QuantizedLinear, pack_int4, quantize, unpack
from glmimage.picture import make_pictures
from glmimage.pipeline import generate
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PictureReady

GROUP = 32
CONFIG = {
    "autoround_version": "0.12.0",
    "bits": 4,
    "data_type": "int",
    "group_size": GROUP,
    "packing_format": "auto_round:auto_gptq",
    "quant_method": "auto-round",
    "sym": True,
}


def test_int4_packing_is_undone():
    columns = torch.randint(0, 16, (5, 64), generator=torch.Generator().manual_seed(0))
    zero = torch.full((5, 2), 3, dtype=torch.uint8)
    scale = torch.tensor([[0.5, 2.0]]).expand(5, 2)
    expected = (columns - 3).float() * torch.tensor([0.5, 2.0]).repeat_interleave(32)
    assert torch.equal(unpack(pack_int4(columns), scale, zero), expected)


@pytest.mark.parametrize(("form", "error"), [("int8", 0.01), ("fp8", 0.03), ("int4", 0.12)])
def test_what_is_lost(form, error):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    restored = unpack(*quantize(weight, form))
    lost = (restored - weight).norm() / weight.norm()
    assert error / 4 < lost < error
    # again from the restored weight: nothing more is lost
    again = unpack(*quantize(restored, form))
    assert (again - restored).norm() < 1e-3 * weight.norm()


@pytest.mark.parametrize("form", ["int8", "int4", "fp8"])
def test_the_layers_are_packed_and_take_what_the_plan_counts(tiny_dir, form):
    checkpoint = Checkpoint(tiny_dir)
    full = checkpoint.component_bytes(torch.float32)
    counted = checkpoint.component_bytes(torch.float32, form)
    for name, load in (("prior", checkpoint.load_prior), ("dit", checkpoint.load_dit)):
        model = load(weights=form)
        packed = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
        held = [*model.parameters(), *model.buffers()]
        assert sum(t.numel() * t.element_size() for t in held) == counted[name] < full[name]
        assert len(packed) == 3 * (5 if name == "dit" else 4)
        assert all((layer.bias is not None) for layer in packed) == (name == "dit")


def autoround(tiny_dir, folder):
    """Pack the layers of the toy checkpoint as AutoRound does, and return what they stand for."""
    shutil.copytree(tiny_dir, folder)
    truth = {}
    for component, group in (
        ("vision_language_encoder", "model.language_model.layers."),
        ("transformer", "transformer_blocks."),
    ):
        path = folder / component / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"quantization_config": CONFIG}))
        (index,) = (folder / component).glob("*.index.json")
        weight_map = {}
        for file in sorted((folder / component).glob("*.safetensors")):
            with safe_open(file, "pt") as reader:
                tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
            for name in [n for n in tensors if n.startswith(group) and tensors[n].dim() == 2]:
                base = name.removesuffix(".weight")
                parts, truth[name] = pack_gptq(tensors.pop(name))
                tensors |= {f"{base}.{part}": value for part, value in parts.items()}
            save_file(tensors, file)
            weight_map |= dict.fromkeys(tensors, file.name)
        index.write_text(json.dumps({"weight_map": weight_map}))
    return truth


def pack_gptq(weight):
    """Follow the public description: column by column, eight to a number, zeros less one."""
    rows, columns = weight.shape
    size = GROUP if columns % GROUP == 0 else columns
    groups = weight.unflatten(1, (-1, size))
    scales = (groups.abs().amax(-1) / 7).half()
    zero = 8
    whole = ((groups / scales.float()[..., None]).round() + zero).clamp(0, 15).long().flatten(1)
    restored = (whole.unflatten(1, (-1, size)) - zero) * scales.float()[..., None]
    qweight = torch.zeros(columns // 8, rows, dtype=torch.int64)
    for column in range(columns):
        qweight[column // 8] |= whole[:, column] << (4 * (column % 8))
    qzeros = torch.zeros(columns // size, rows // 8, dtype=torch.int64)
    for row in range(rows):
        qzeros[:, row // 8] |= (zero - 1) << (4 * (row % 8))
    parts = {
        "qweight": as_int32(qweight),
        "qzeros": as_int32(qzeros),
        "scales": scales.t().contiguous(),
        "g_idx": (torch.arange(columns) // size).int(),
    }
    return parts, restored.flatten(1)


def as_int32(numbers):
    return torch.where(numbers >= 2**31, numbers - 2**32, numbers).int()


@pytest.fixture(scope="module")
def packed(tiny_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoround") / "toy"
    return folder, autoround(tiny_dir, folder)


def test_an_autoround_checkpoint_holds_the_weights_it_stands_for(packed, tiny_dir):
    folder, truth = packed
    checkpoint = Checkpoint(folder)
    prior, dit = checkpoint.load_prior(), checkpoint.load_dit()
    name = "model.language_model.layers.1.self_attn.{}_proj.weight"
    assert torch.equal(
        prior.layers[1].qkv.weight, torch.cat([truth[name.format(p)] for p in "qkv"])
    )
    down = "model.language_model.layers.2.mlp.down_proj.weight"
    assert torch.equal(prior.layers[2].mlp.down.weight, truth[down])
    assert torch.equal(
        dit.blocks[0].modulation.weight, truth["transformer_blocks.0.norm1.linear.weight"]
    )
    assert isinstance(dit.blocks[2].ff_in, QuantizedLinear)
    stored, plain = checkpoint.component_bytes(), Checkpoint(tiny_dir).component_bytes()
    assert stored["dit"] < 0.35 * plain["dit"]
    streamed = checkpoint.load_dit(kept_layers=0)
    assert streamed.blocks[1].qkv.weight.device.type == "meta"


def test_an_autoround_checkpoint_paints_what_its_unpacked_weights_paint(packed, tiny_dir, tmp_path):
    folder, truth = packed
    unpacked = tmp_path / "unpacked"
    shutil.copytree(tiny_dir, unpacked)
    for file in unpacked.rglob("*.safetensors"):
        with safe_open(file, "pt") as reader:
            tensors = {n: truth.get(n, reader.get_tensor(n)) for n in reader.keys()}  # noqa: SIM118
        save_file(tensors, file)
    made = []
    for path, memory in ((unpacked, "staged"), (folder, "staged"), (folder, "layered")):
        pictures = make_pictures("0", GenerationRequest("A 'B'", 512, 512, 1, 1.5, seed=4))
        stages = Stages.load(str(path), "cpu", "float32", memory)
        (image,) = [e.image for e in generate(stages, pictures) if isinstance(e, PictureReady)]
        made.append((pictures[0].prior.prior_token_ids, image.tobytes()))
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 2}, "bits is 2"),
        ({"quant_method": "awq"}, "quant_method is 'awq'"),
        ({"packing_format": "auto_round:auto_awq"}, "packing_format"),
    ],
)
def test_other_packings_are_refused(packed, tmp_path, change, words):
    folder = tmp_path / "toy"
    shutil.copytree(packed[0], folder)
    path = folder / "transformer/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": CONFIG | change}))
    with pytest.raises(CheckpointInvalid, match=words):
        Checkpoint(folder)


def test_parts_that_do_not_fit_are_refused(packed, tmp_path):
    folder = tmp_path / "toy"
    shutil.copytree(packed[0], folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        with safe_open(file, "pt") as reader:
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        for name in [name for name in tensors if name.endswith(".scales")]:
            tensors[name] = tensors[name][:, 1:].contiguous()
        save_file(tensors, file)
    with pytest.raises(CheckpointInvalid, match="do not fit together"):
        Checkpoint(folder)


def test_packed_parts_without_a_description_are_refused(packed, tmp_path):
    folder = tmp_path / "toy"
    shutil.copytree(packed[0], folder)
    path = folder / "transformer/config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointInvalid, match="stored as I32"):
        Checkpoint(folder)
