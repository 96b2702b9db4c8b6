"""`glmimage doctor` says what would run and what is wrong, and downloads nothing."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from glmimage.cli import app
from glmimage.memory import GIB


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("GLMIMAGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GLMIMAGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_download)


def _no_download(*arguments, local_files_only=False, **options):
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert local_files_only, "doctor must not download"
    raise LocalEntryNotFoundError("nothing is here")


def doctor(*arguments):
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.output


def report(*arguments):
    code, text = doctor("--json", *arguments)
    document = json.loads(text)
    assert code == bool(document["problems"])
    return document, {model["model"]: model for model in document["models"]}


def test_a_machine_in_order(tiny_dir, tmp_path):
    document, models = report("--model", str(tiny_dir))
    assert document["problems"] == []
    assert document["machine"]["dtype"] in ("float32", "bfloat16")
    toy, real = models[str(tiny_dir)], models["zai-org/GLM-Image"]
    assert toy["files"] == "complete"
    assert toy["plan"]["memory"] == "resident"
    assert real["files"].startswith("not downloaded")
    assert real["download_to"] == str(tmp_path / "cache")
    code, page = doctor("--model", str(tiny_dir))
    assert code == 0
    assert "would run resident" in page
    assert page.rstrip().endswith("Nothing is wrong.")


@pytest.mark.parametrize(
    ("gib", "mode"), [(79.5, "resident"), (47.5, "resident"), (23.6, "staged"), (15.6, "layered")]
)
def test_what_a_gpu_of_that_size_would_do(monkeypatch, gib, mode):
    free = int(gib * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda *_: type("P", (), {"total_memory": free})
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    document, models = report()
    assert document["machine"]["gpus"][0]["name"] == "A GPU"
    plan = models["zai-org/GLM-Image"]["plan"]
    assert (plan["memory"], plan["device"]) == (mode, "cuda")
    assert f"{gib:.1f} GiB are free" in plan["why"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GLMIMAGE_MEMORY", "huge", "GLMIMAGE_MEMORY is 'huge'"),
        ("GLMIMAGE_MEMROY", "staged", "There is no setting GLMIMAGE_MEMROY"),
        ("GLMIMAGE_LOSSY", "weights=int2", "GLMIMAGE_LOSSY"),
        ("GLMIMAGE_DEVICE", "cuda:7", "no cuda device"),
        ("GLMIMAGE_MODEL", "/no/such/folder", "no model or folder '/no/such/folder'"),
        ("GLMIMAGE_DATA_DIR", "/proc/glmimage", "/proc/glmimage cannot be written"),
    ],
)
def test_what_is_misconfigured_is_said(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    document, _ = report()
    assert any(words in problem for problem in document["problems"]), document["problems"]
    assert f"Problem: {document['problems'][0]}" in doctor()[1]


def test_a_damaged_checkpoint_is_a_problem(tiny_dir, tmp_path):
    shutil.copytree(tiny_dir, tmp_path / "toy")
    (tmp_path / "toy/vae/config.json").unlink()
    document, models = report("--model", str(tmp_path / "toy"))
    assert "vae/config.json is missing" in document["problems"][0]
    assert "plan" not in models[str(tmp_path / "toy")]


def test_offline_without_the_model_is_a_problem(monkeypatch):
    monkeypatch.setenv("GLMIMAGE_OFFLINE", "1")
    document, _ = report("--model", "someone/else")
    assert "downloads are switched off" in document["problems"][0]
