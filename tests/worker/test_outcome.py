"""Errors as answers, and the name of a model's revision."""

import shutil

import pytest

from glmimage.errors import GlmImageError, InvalidImage, InvalidSize, OutOfMemory
from glmimage.worker.outcome import error_body
from glmimage.worker.revision import model_revision


@pytest.mark.parametrize(
    ("error", "status", "kind", "retryable"),
    [
        (InvalidImage("Too dark."), 422, "image_load_error", False),
        (InvalidSize("Too wide.", field="width"), 422, "value_error", False),
        (OutOfMemory("Too large."), 500, "internal_server_error", True),
        (GlmImageError("secret/path.py broke"), 500, "internal_server_error", True),
    ],
)
def test_failures_are_answers_of_the_right_kind(error, status, kind, retryable):
    found_status, body, found_retryable = error_body(error)
    assert (found_status, found_retryable) == (status, retryable)
    (entry,) = body["detail"]
    assert entry["type"] == kind
    assert "secret" not in entry["msg"]


def test_a_revision_names_every_part_of_the_model(tiny_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_dir, copy)
    first = model_revision(tiny_dir, "cpu", "float32")
    assert model_revision(copy, "cpu", "float32") == first
    assert model_revision(copy, "cpu", "bfloat16") != first
    (copy / "notes.md").write_text("not a part of it")
    assert model_revision(copy, "cpu", "float32") == first
    weights = next((copy / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_revision(copy, "cpu", "float32") != first
