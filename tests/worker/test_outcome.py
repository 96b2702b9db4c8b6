"""Errors as answers, and the name of a model's revision."""

import io
import shutil

import pytest
import torch
from PIL import Image

from glmimage.errors import GlmImageError, InvalidImage, InvalidSize, OutOfMemory
from glmimage.policy.picture_check import PictureChecker
from glmimage.types import PictureReady
from glmimage.worker.outcome import error_body, finish_picture
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


def test_a_revision_names_torch_but_not_its_build(tiny_dir, monkeypatch):
    def revision(version):
        monkeypatch.setattr(torch, "__version__", version)
        return model_revision(tiny_dir, "cuda", "bfloat16")

    first = revision("2.9.1+cu128")
    assert revision("2.9.1+cu130") == first
    assert revision("2.9.2+cu128") != first


class Suspicious:
    """Score every picture by its first red value."""

    def score(self, image):
        return image.getpixel((0, 0))[0] / 255


@pytest.mark.parametrize("asked", ["jpeg", "png"])
def test_a_flagged_picture_is_black_and_another_is_itself(asked):
    checker = PictureChecker(0.5, Suspicious())
    for red, flagged in ((250, True), (20, False)):
        image = Image.new("RGB", (64, 32), (red, 80, 160))
        event = PictureReady("a", 0, image, 7, {})
        done = finish_picture(event, {"output_format": asked}, checker)
        assert (done.flagged, done.width, done.height) == (flagged, 64, 32)
        with Image.open(io.BytesIO(done.content)) as picture:
            assert picture.format.lower() == asked
            found = picture.convert("RGB").getpixel((5, 5))
        expected = (0, 0, 0) if flagged else (red, 80, 160)
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 2
        unchecked = finish_picture(event, {"enable_safety_checker": False}, checker)
        assert not unchecked.flagged
