"""Opening and loading checkpoints: complete and exact, or one sentence that says what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glmimage.errors import CheckpointInvalid, ModelNotFound, OutOfMemory
from glmimage.loading import checkpoint as checkpoint_module
from glmimage.loading import tensors
from glmimage.loading.checkpoint import Checkpoint, load_components
from glmimage.loading.tiny import make_tiny

NETWORKS = ("prior", "vision", "dit", "glyph", "vae")
DIT_SHARD = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
DIT_INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
GLYPH_FILE = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def broken(tiny, tmp_path):
    """Return a copy to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit_json(path, **changes):
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            data.pop(key, None)
        else:
            data[key] = value
    path.write_text(json.dumps(data))


def edit_tensors(path, change):
    stored = load_file(path)
    change(stored)
    save_file(stored, path)


def refusal(path):
    """Return the one sentence with which opening `path` is refused."""
    with pytest.raises(CheckpointInvalid) as caught:
        Checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def all_tensors(module):
    return dict(module.named_parameters())


def test_components_hold_every_stored_value(tiny):
    components = load_components(tiny)
    loaded = sum(
        parameter.double().sum()
        for name in NETWORKS
        for parameter in getattr(components, name).parameters()
    )
    ignored = ("model.vqmodel.post_quant_conv.weight", "model.vqmodel.post_quant_conv.bias")
    stored = sum(
        tensor.double().sum()
        for file in tiny.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
        if name not in ignored
    )
    assert loaded.item() == pytest.approx(stored.item(), rel=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_loads_alone_ready_and_in_the_dtype_asked_for(tiny, name):
    network = getattr(Checkpoint(tiny), f"load_{name}")(dtype=torch.bfloat16)
    assert isinstance(network, nn.Module)
    for module in network.modules():
        assert not module.training
    for tensor in (*network.parameters(), *network.buffers()):
        assert tensor.dtype == torch.bfloat16
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad


def test_cast_is_that_of_torch(tiny):
    checkpoint = Checkpoint(tiny)
    full = all_tensors(checkpoint.load_dit())
    for dtype in (torch.bfloat16, torch.float16):
        for name, tensor in all_tensors(checkpoint.load_dit(dtype=dtype)).items():
            assert torch.equal(tensor, full[name].to(dtype)), name


def test_half_precision_files_load_in_any_dtype(broken):
    edit_tensors(
        broken / VAE_FILE, lambda stored: stored.update({k: v.half() for k, v in stored.items()})
    )
    edit_tensors(
        broken / GLYPH_FILE,
        lambda stored: stored.update({k: v.bfloat16() for k, v in stored.items()}),
    )
    checkpoint = Checkpoint(broken)
    assert next(checkpoint.load_vae().parameters()).dtype == torch.float32
    assert next(checkpoint.load_glyph().parameters()).dtype == torch.float32
    full = checkpoint.component_bytes(torch.float32)
    as_stored = checkpoint.component_bytes()
    assert as_stored["vae"] * 2 == full["vae"]
    assert as_stored["glyph"] * 2 == full["glyph"]


def test_vae_is_never_loaded_in_float16(tiny):
    assert next(Checkpoint(tiny).load_vae(dtype=torch.float16).parameters()).dtype == torch.float32


def test_component_bytes_are_what_loading_takes(tiny):
    checkpoint = Checkpoint(tiny)
    sizes = checkpoint.component_bytes(torch.bfloat16)
    for name in NETWORKS:
        network = getattr(checkpoint, f"load_{name}")(dtype=torch.bfloat16)
        assert sizes[name] == sum(p.numel() * 2 for p in network.parameters())


def test_progress_reaches_the_total_of_each_network(tiny):
    seen = []
    checkpoint = Checkpoint(tiny)
    load_components(tiny, on_progress=lambda *event: seen.append(event))
    for name, total in checkpoint.component_bytes().items():
        done = [event[1] for event in seen if event[0] == name]
        assert {event[2] for event in seen if event[0] == name} == {total}
        assert done == sorted(done)
        assert done[-1] == total


def test_loading_draws_no_random_number_and_builds_nothing_twice(tiny, monkeypatch):
    largest = []
    real_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: largest.append(a[0]) or real_empty(*a, **k))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dit = Checkpoint(tiny).load_dit()
    assert torch.equal(torch.rand(3), expected)
    assert len([shape for shape in largest if isinstance(shape, torch.Size)]) == len(
        list(dit.parameters())
    )


def test_opening_reads_no_tensor(tiny, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(tensors, "safe_open", refuse)
    assert Checkpoint(tiny).component_bytes()["prior"] > 1_000_000
    with pytest.raises(AssertionError, match="a tensor was read"):
        Checkpoint(tiny).load_vae()


def test_tied_embedding_may_be_stored_under_either_name_or_both(broken):
    expected = all_tensors(Checkpoint(broken).load_glyph())["text_encoder.shared.weight"]
    alias = "encoder.embed_tokens.weight"
    edit_tensors(
        broken / GLYPH_FILE, lambda stored: stored.update({alias: stored["shared.weight"].clone()})
    )
    both = Checkpoint(broken).load_glyph()
    edit_tensors(broken / GLYPH_FILE, lambda stored: stored.pop("shared.weight"))
    renamed = Checkpoint(broken).load_glyph()
    for glyph in (both, renamed):
        assert torch.equal(glyph.text_encoder.shared.weight, expected)
        assert glyph.text_encoder.encoder.embed_tokens.weight is glyph.text_encoder.shared.weight


def test_memory_that_is_not_there_is_out_of_memory(tiny, monkeypatch):
    real_empty = torch.empty

    def full(*args, **options):
        if options.get("device") == torch.device("cpu"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9999 bytes")
        return real_empty(*args, **options)

    checkpoint = Checkpoint(tiny)
    monkeypatch.setattr(tensors.torch, "empty", full)
    with pytest.raises(OutOfMemory, match="Loading dit needs more memory than cpu has"):
        checkpoint.load_dit()


def test_folder_that_is_not_there():
    with pytest.raises(ModelNotFound, match="There is no folder /nowhere/model"):
        Checkpoint("/nowhere/model")


def test_folder_without_model_index(tmp_path):
    assert "model_index.json is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "text_encoder/config.json",
        "vae/config.json",
        "vision_language_encoder/config.json",
        "vision_language_encoder/generation_config.json",
    ],
)
def test_json_missing_corrupt_or_of_another_kind(broken, name):
    (broken / name).write_text('{"a": 1')
    assert f"{name} in {broken} is not valid JSON" in refusal(broken)
    (broken / name).write_bytes(b"\xff\xfe\x00")
    assert f"{name} in {broken} is not valid JSON" in refusal(broken)
    (broken / name).write_text("[1]")
    assert f"{name} in {broken} must hold a JSON object" in refusal(broken)
    (broken / name).unlink()
    assert f"{name} is missing in {broken}" in refusal(broken)
    (broken / name).mkdir()
    assert f"{name} in {broken} cannot be read" in refusal(broken)


def test_another_pipeline(broken):
    edit_json(broken / "model_index.json", _class_name="FluxPipeline")
    message = refusal(broken)
    assert "model_index.json" in message
    assert "'FluxPipeline'" in message
    assert "'GlmImagePipeline'" in message


@pytest.mark.parametrize("component", checkpoint_module.LAYOUT)
def test_component_missing_in_the_index_or_on_disk_or_of_another_class(broken, component):
    entry = json.loads((broken / "model_index.json").read_text())[component]
    edit_json(broken / "model_index.json", **{component: ["diffusers", "Other"]})
    assert f"model_index.json: {component} is ['diffusers', 'Other']" in refusal(broken)
    edit_json(broken / "model_index.json", **{component: None})
    assert f"model_index.json: {component} is None" in refusal(broken)
    edit_json(broken / "model_index.json", **{component: entry})
    shutil.rmtree(broken / component)
    assert f"The folder {component} is missing" in refusal(broken)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}),
        ("vae/config.json", {"_class_name": "AutoencoderKLWan"}),
        ("vision_language_encoder/config.json", {"architectures": ["Qwen2ForCausalLM"]}),
        ("vision_language_encoder/config.json", {"architectures": None}),
        ("text_encoder/config.json", {"model_type": "umt5"}),
        ("scheduler/scheduler_config.json", {"time_shift_type": "exponential"}),
    ],
)
def test_wrong_architecture(broken, name, change):
    edit_json(broken / name, **change)
    message = refusal(broken)
    assert name in message
    assert next(iter(change)) in message


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("transformer/config.json", {"text_embed_dim": 64}, "d_model is 32"),
        ("transformer/config.json", {"in_channels": 8, "out_channels": 8}, "latent_channels is 16"),
        ("transformer/config.json", {"out_channels": 8}, "out_channels is 8"),
        ("transformer/config.json", {"patch_size": 4}, "pixels of a patch"),
        ("transformer/config.json", {"prior_vq_quantizer_codebook_size": 128}, "less than the 256"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean must hold 16 numbers"),
        ("vae/config.json", {"latents_std": None}, "latents_std must hold 16 numbers"),
        ("vae/config.json", {"block_out_channels": "8"}, "pixels of a patch"),
    ],
)
def test_components_that_do_not_fit(broken, name, change, named):
    edit_json(broken / name, **change)
    assert named in refusal(broken)


def test_config_that_describes_no_network(broken):
    edit_json(broken / "vae/config.json", norm_num_groups=7)
    assert "vae/config.json describes no network" in refusal(broken)


def test_missing_weights_file(broken):
    (broken / VAE_FILE).unlink()
    assert f"{VAE_FILE} is missing" in refusal(broken)


def test_missing_shard(broken):
    (broken / DIT_SHARD).unlink()
    assert f"{DIT_SHARD} is missing" in refusal(broken)


@pytest.mark.parametrize("name", [VAE_FILE, DIT_SHARD])
def test_truncated_weights_file(broken, name):
    data = (broken / name).read_bytes()
    for kept in (len(data) - 1, len(data) // 2, 100, 4, 0):
        (broken / name).write_bytes(data[:kept])
        message = refusal(broken)
        assert f"{name} is truncated" in message
        assert f"{kept} bytes" in message
    (broken / name).write_bytes(data + b"\0")
    assert f"{name} is truncated" in refusal(broken)


def test_weights_file_that_is_something_else(broken):
    (broken / VAE_FILE).write_bytes(b"\x80\x02}q\x00" * 100)
    assert f"{VAE_FILE} is truncated or not a safetensors file" in refusal(broken)
    (broken / VAE_FILE).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    assert f"{VAE_FILE} is a Git LFS pointer" in refusal(broken)


def test_weights_of_an_unsupported_type(broken):
    edit_tensors(
        broken / VAE_FILE,
        lambda stored: stored.update({"decoder.conv_in.bias": torch.zeros(16, dtype=torch.int8)}),
    )
    message = refusal(broken)
    assert "decoder.conv_in.bias" in message
    assert "I8" in message


def test_index_that_is_wrong(broken):
    index = json.loads((broken / DIT_INDEX).read_text())
    edit_json(broken / DIT_INDEX, weight_map={})
    assert f"{DIT_INDEX} in {broken} has no weight_map" in refusal(broken)
    edit_json(
        broken / DIT_INDEX,
        weight_map={**index["weight_map"], "proj_out.bias": "../secret.safetensors"},
    )
    assert "outside its folder" in refusal(broken)
    elsewhere = next(
        iter(set(index["weight_map"].values()) - {index["weight_map"]["proj_out.bias"]})
    )
    edit_json(broken / DIT_INDEX, weight_map={**index["weight_map"], "proj_out.bias": elsewhere})
    assert f"transformer/{elsewhere} does not hold the tensor proj_out.bias" in refusal(broken)


def test_tensor_in_two_shards(broken):
    other = load_file(broken / DIT_SHARD)
    edit_tensors(
        broken / DIT_SHARD.replace("00002-of", "00001-of"), lambda stored: stored.update(other)
    )
    assert "is stored in two shards" in refusal(broken)


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        (VAE_FILE, "decoder.conv_in.bias"),
        (GLYPH_FILE, "encoder.final_layer_norm.weight"),
        ("vision_language_encoder", "lm_head.weight"),
        ("vision_language_encoder", "model.language_model.layers.2.self_attn.k_proj.bias"),
        ("vision_language_encoder", "model.visual.blocks.1.attn.qkv.weight"),
        ("vision_language_encoder", "model.vqmodel.quantize.embedding.weight"),
        ("transformer", "transformer_blocks.1.attn1.to_v.bias"),
        ("transformer", "prior_token_embedding.weight"),
    ],
)
def test_tensor_missing_unexpected_or_of_another_shape(broken, file, tensor):
    path = broken / file
    if path.is_dir():  # find its shard, and let the index forget it
        index = next(path.glob("*.index.json"))
        weight_map = json.loads(index.read_text())["weight_map"]
        path = path / weight_map[tensor]
        shorter = {name: shard for name, shard in weight_map.items() if name != tensor}
        edit_json(index, weight_map=shorter)
    original = load_file(path)[tensor]
    folder = path.parent.name

    edit_tensors(path, lambda stored: stored.pop(tensor))
    assert refusal(broken) == f"{folder}: tensor {tensor} is missing in the safetensors files."

    wrong = torch.cat([original, original[:1]])
    edit_tensors(path, lambda stored: stored.update({tensor: wrong}))
    message = refusal(broken)
    assert message.startswith(f"{folder}/{path.name}: wrong shape: ") or "model" in message
    assert f"{tensor} {list(wrong.shape)}" in message

    edit_tensors(
        path, lambda stored: stored.update({tensor: original, f"{tensor}.extra": original.clone()})
    )
    assert (
        refusal(broken)
        == f"{folder}: tensor {tensor}.extra is unexpected in the safetensors files."
    )


def test_many_missing_tensors_are_counted(broken):
    edit_tensors(broken / VAE_FILE, lambda stored: [stored.pop(name) for name in list(stored)[:10]])
    assert "and 7 more are missing" in refusal(broken)


@pytest.mark.parametrize("folder", ["processor", "tokenizer"])
def test_damaged_processor_or_tokenizer(broken, folder):
    for file in (broken / folder).iterdir():
        file.write_text("{")
    checkpoint = Checkpoint(broken)
    with pytest.raises(
        CheckpointInvalid, match=f"The {folder} folder in .* cannot be read"
    ) as caught:
        checkpoint.load_prompt() if folder == "processor" else checkpoint.load_glyph()
    assert "\n" not in str(caught.value)


def test_file_that_is_damaged_after_opening(broken):
    checkpoint = Checkpoint(broken)
    data = (broken / VAE_FILE).read_bytes()
    (broken / VAE_FILE).write_bytes(data[:-10])
    with pytest.raises(CheckpointInvalid, match=r"vae: tensor .* cannot be read from"):
        checkpoint.load_vae()
