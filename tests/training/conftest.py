"""Small folders of pictures with captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.training import LoraOptions, train_lora
from glmimage.training.progress import Saved, Stepped

torch.set_num_threads(1)


def draw(seed, size=(512, 512)):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Give the function that writes pictures of some sizes, with captions beside them."""

    def write(sizes=((512, 512),) * 2, name="pictures"):
        directory = tmp_path / name
        directory.mkdir()
        for number, size in enumerate(sizes):
            draw(number, size).save(directory / f"{number}.png")
            (directory / f"{number}.txt").write_text(f"A sign that says '{'ab'[: number + 1]}'\n")
        return directory

    return write


@pytest.fixture
def train(tiny_dir, tmp_path):
    """Give the function that trains on the toy checkpoint and returns the events."""

    def run(pictures, out="adapters", should_stop=lambda: False, **options):
        chosen = {"resolution": 512, "rank": 4, "warmup": 1, "learning_rate": 2e-2} | options
        asked = LoraOptions(pictures, tmp_path / out, **chosen)
        return list(train_lora(asked, str(tiny_dir), "tiny", "cpu", should_stop=should_stop))

    return run


def losses(events, part):
    return [event.loss for event in events if isinstance(event, Stepped) and event.part == part]


def validations(events, part):
    return [event.validation for event in events if isinstance(event, Saved) and event.part == part]


def metadata(directory, *rows):
    (directory / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
