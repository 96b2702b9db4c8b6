"""Where a model lives: the plan as a table, device and dtype as asked for."""

import pytest
import torch

from glmimage.errors import InvalidSettings, OutOfMemory
from glmimage.loading.checkpoint import Checkpoint
from glmimage.memory import (
    GIB,
    GLM_IMAGE,
    MAX_PIXELS,
    MIN_KV_TOKENS,
    RESERVE_BYTES,
    STREAMED_AT_ONCE,
    Dtypes,
    Needs,
    choose_device,
    choose_dtypes,
    free_bytes,
    memory_errors,
    plan_memory,
)
from glmimage.stages import needs

SMALL = Needs(GIB // 16, GIB // 16, 10_000, 10_000, 512)
ALL, NONE = MAX_PIXELS, 0


@pytest.mark.parametrize(
    ("model", "free_gib", "asked", "mode", "kv_tokens", "vae_pixels"),
    [
        (GLM_IMAGE, 79, "auto", "resident", 32768, ALL),
        (GLM_IMAGE, 47, "auto", "resident", 32768, ALL),
        (GLM_IMAGE, 44, "auto", "staged", 32768, ALL),
        (GLM_IMAGE, 39, "auto", "staged", 32768, ALL),
        (GLM_IMAGE, 39, "resident", "resident", 32768, range(1024**2, 1536**2)),
        (GLM_IMAGE, 79, "staged", "staged", 32768, ALL),
        (GLM_IMAGE, 23.5, "auto", "staged", 32768, range(1280**2, ALL)),
        (GLM_IMAGE, 21, "auto", "staged", range(8192, 32768), range(1024**2, 1536**2)),
        (SMALL, 8, "auto", "resident", 32768, ALL),
        (SMALL, 2, "auto", "staged", 32768, range(512**2, 1024**2)),
    ],
)
def test_the_plan(model, free_gib, asked, mode, kv_tokens, vae_pixels):
    plan = plan_memory(model, int(free_gib * GIB), asked)
    assert plan.mode == mode
    for value, expected in ((plan.kv_tokens, kv_tokens), (plan.vae_pixels, vae_pixels)):
        assert value in expected if isinstance(expected, range) else value == expected


@pytest.mark.parametrize(
    ("free_gib", "asked", "said"),
    [
        (79, "auto", "resident: both stages (32.3 GiB of weights) fit at once; 79.0 GiB are free"),
        (39, "auto", "staged: one stage at a time (up to 18.8 GiB of weights) fits, not both; "),
        (79, "staged", "staged: one stage at a time, as asked for; 79.0 GiB are free"),
        (16, "auto", "because no stage fits as a whole; 16.0 GiB are free"),
        (79, "layered", "are read anew at every pass, as asked for; 79.0 GiB are free"),
    ],
)
def test_a_plan_says_which_mode_it_is_and_why(free_gib, asked, said):
    plan = plan_memory(GLM_IMAGE, free_gib * GIB, asked)
    assert said in str(plan)
    assert str(plan) == f"{plan.mode}: {plan.why}"


@pytest.mark.parametrize(
    ("free_gib", "asked"), [(6, "auto"), (16, "staged"), (20, "resident"), (0, "auto")]
)
def test_a_model_that_cannot_fit_is_refused_before_loading(free_gib, asked):
    with pytest.raises(OutOfMemory, match=r"needs \d+\.\d GiB at once"):
        plan_memory(GLM_IMAGE, free_gib * GIB, asked)


def test_whatever_is_planned_fits():
    for quarter in range(82, 4 * 80):
        free = quarter * GIB // 4
        plan = plan_memory(GLM_IMAGE, free)
        kv = plan.kv_tokens * GLM_IMAGE.kv_token
        paint = GLM_IMAGE.decode + plan.vae_pixels * GLM_IMAGE.vae_pixel
        stages = GLM_IMAGE.prior + kv, paint
        assert (sum(stages) if plan.resident else max(stages)) < free


@pytest.mark.parametrize(
    ("gpu_gib", "mode"),
    [
        (79, "resident"),
        (47, "resident"),
        (44, "staged"),
        (23.5, "staged"),
        (15.5, "layered"),
        (7.5, "layered"),
    ],
)
def test_the_published_model_runs_on_gpus_of_every_size(gpu_gib, mode):
    plan = plan_memory(GLM_IMAGE, int(gpu_gib * GIB))
    assert plan.mode == mode
    assert "GiB are free" in plan.why
    if mode != "layered":
        return
    held = {
        name: getattr(GLM_IMAGE, name)
        - (getattr(GLM_IMAGE, f"{name}_layers") - kept - STREAMED_AT_ONCE)
        * getattr(GLM_IMAGE, f"{name}_layer")
        for name, kept in (("prior", plan.prior_layers), ("decode", plan.decode_layers))
        if kept is not None
    }
    assert "prior" in held  # the larger one
    room = int(gpu_gib * GIB) - RESERVE_BYTES
    assert held["prior"] + MIN_KV_TOKENS * GLM_IMAGE.kv_token <= room
    assert held["prior"] + MIN_KV_TOKENS * GLM_IMAGE.kv_token > room - GLM_IMAGE.prior_layer
    assert held.get("decode", GLM_IMAGE.decode) <= room


def test_layered_as_asked_for_keeps_no_layer():
    plan = plan_memory(GLM_IMAGE, 79 * GIB, "layered")
    assert (plan.mode, plan.prior_layers, plan.decode_layers) == ("layered", 0, 0)
    with pytest.raises(OutOfMemory, match="layered"):
        plan_memory(GLM_IMAGE, 3 * GIB)


def test_unknown_mode():
    with pytest.raises(InvalidSettings, match="memory mode 'fast'"):
        plan_memory(SMALL, GIB, "fast")


def test_needs_are_counted_from_the_checkpoint(tiny_dir):
    checkpoint = Checkpoint(tiny_dir)
    full, half = (
        needs(checkpoint, Dtypes(dtype, dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    stored = sum(file.stat().st_size for file in tiny_dir.rglob("*.safetensors"))
    assert 0.9 * stored < full.prior + full.decode < stored
    assert full.prior == 2 * half.prior
    assert full.decode == 2 * half.decode
    assert half.kv_token == 2 * 3 * 2 * 32 * 2  # keys and values, 3 layers, 2 heads of 32, 2 bytes
    assert half.reference_patch == 2 * 3 * 64 * 2


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "meta", "cuda:99"])
def test_devices_that_are_not_there(device):
    with pytest.raises(InvalidSettings):
        choose_device(device)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_device_is_chosen(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device(None).type == expected
    assert choose_device("cpu").type == "cpu"


def test_the_dtype_asked_for():
    cpu = torch.device("cpu")
    assert choose_dtypes(cpu, "bfloat16") == Dtypes(torch.bfloat16, torch.bfloat16)
    assert choose_dtypes(cpu, torch.float16) == Dtypes(torch.float16, torch.float16)
    with pytest.raises(InvalidSettings, match="'int4'"):
        choose_dtypes(cpu, "int4")


FULL, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "fast", "prior_values", "expected"),
    [
        ("cuda", True, 10**6, Dtypes(HALF, HALF)),
        ("cuda", False, 10**6, Dtypes(FULL, FULL)),
        ("mps", True, 10**6, Dtypes(HALF, HALF)),
        ("mps", False, 10**6, Dtypes(FULL, FULL)),
        ("cpu", True, 10**6, Dtypes(FULL, HALF, products=HALF)),
        ("cpu", True, 9 * 10**9, Dtypes(HALF, HALF)),
        ("cpu", False, 9 * 10**9, Dtypes(FULL, FULL)),
    ],
)
def test_bfloat16_only_where_the_hardware_computes_in_it(
    monkeypatch, device, fast, prior_values, expected
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: fast)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    chosen = choose_dtypes(torch.device(device), None, prior_values)
    assert chosen == expected


def test_free_memory_is_within_the_machine():
    free = free_bytes(torch.device("cpu"))
    assert 2**20 < free < 2**50


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_every_word_for_no_memory_is_one_error(error):
    with pytest.raises(OutOfMemory), memory_errors():
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes do not match")
