"""Folders of pictures: both forms, sizes, splits, and one sentence for whatever is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from glmimage.errors import InvalidDataset
from glmimage.training.dataset import fill_size, read_folder, split, training_size


def metadata(directory, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (directory / "metadata.jsonl").write_text("\n".join(lines))


def test_captions_beside_the_pictures(folder):
    directory = folder([(512, 512), (600, 520)])
    Image.new("RGB", (512, 512)).save(directory / "0.prior.webp")
    first, second = read_folder(directory, 512)
    assert (first.path.name, first.caption) == ("0.png", "A sign that says 'a'")
    assert (first.width, first.height, first.prior_path.name) == (512, 512, "0.prior.webp")
    assert (second.width, second.height, second.prior_path) == (576, 512, second.path)
    assert second.picture().size == (576, 512)


def test_metadata_as_imagefolder_has_it(folder):
    directory = folder([(512, 512), (512, 512)])
    rows = [
        {"file_name": "1.png", "text": "one", "prior_file_name": "0.png"},
        {"file_name": "0.png", "caption": "zero"},
    ]
    metadata(directory, *rows)
    first, second = read_folder(directory, 512)
    assert (first.caption, second.caption) == ("zero", "one")
    assert second.prior_path == directory / "0.png"


def test_a_picture_on_its_side_is_measured_upright(folder):
    directory = folder([(512, 512)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1024, 512)).save(directory / "0.png", exif=exif)
    (example,) = read_folder(directory, 724)
    assert (example.width, example.height) == (512, 1024)
    assert example.picture().size == (512, 1024)


@pytest.mark.parametrize(
    ("own", "resolution", "expected"),
    [
        ((1000, 1000), 1024, (1024, 1024)),
        ((1600, 900), 1024, (1376, 768)),
        ((900, 1600), 1024, (768, 1376)),
        ((1600, 900), 512, (896, 512)),
        ((4000, 1000), 512, (2048, 512)),
        ((3000, 3000), 2048, (2048, 2048)),
    ],
)
def test_training_sizes(own, resolution, expected):
    assert training_size(*own, resolution) == expected


def test_a_picture_fills_its_size_and_keeps_its_middle():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    filled = np.asarray(fill_size(Image.fromarray(pixels), 100, 100))
    assert filled.shape == (100, 100, 3)
    assert filled.min() == 255


def test_split_is_the_seeds_and_leaves_one_to_learn_from(folder):
    examples = read_folder(folder([(512, 512)] * 5), 512)
    learnt, kept_out = split(examples, 0.4, 1)
    assert (len(learnt), len(kept_out)) == (3, 2)
    assert split(examples, 0.4, 1) == (learnt, kept_out)
    assert {one.path for one in learnt}.isdisjoint(one.path for one in kept_out)
    assert split(examples[:1], 0.9, 0) == (examples[:1], [])


def spoil(directory, kind):
    """Make a folder wrong in one way."""
    if kind == "no caption":
        (directory / "1.txt").unlink()
    elif kind == "empty caption":
        (directory / "1.txt").write_text(" \n")
    elif kind == "caption in another encoding":
        (directory / "1.txt").write_bytes(b"\xff\xfe\xff")
    elif kind == "no picture":
        (directory / "1.png").write_text("no picture")
    elif kind == "cut off":
        (directory / "1.png").write_bytes((directory / "1.png").read_bytes()[:20])
    elif kind == "small":
        Image.new("RGB", (300, 400)).save(directory / "1.png")
    elif kind == "narrow":
        Image.new("RGB", (4000, 600)).save(directory / "1.png")
    elif kind == "metadata without text":
        metadata(directory, {"file_name": "1.png"})
    elif kind == "metadata without the file":
        metadata(directory, {"file_name": "9.png", "text": "nine"})
    elif kind == "metadata no JSON":
        metadata(directory, {"file_name": "1.png", "text": "one"}, "{")
    elif kind == "metadata a list":
        metadata(directory, "[1]")
    elif kind == "nothing":
        for path in directory.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no caption", "'1.png' has no caption"),
        ("empty caption", "The caption of '1.png' cannot be used: The prompt is empty"),
        ("caption in another encoding", "'1.txt' cannot be read"),
        ("no picture", "'1.png' is not a picture"),
        ("cut off", "'1.png' is not a picture"),
        ("small", "'1.png' is 300x400 px; for a resolution of 512 it must have about 512x"),
        ("narrow", "at most 4 times"),
        ("metadata without text", "line 1: '1.png' has no caption"),
        ("metadata without the file", "line 1: there is no file"),
        ("metadata no JSON", "line 2 is not a JSON object"),
        ("metadata a list", "line 1 is not a JSON object"),
        ("nothing", "There are no pictures in"),
    ],
)
def test_what_is_wrong_is_said(folder, kind, words):
    directory = folder()
    spoil(directory, kind)
    with pytest.raises(InvalidDataset) as caught:
        read_folder(directory, 512)
    assert words in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(InvalidDataset, match="There is no folder"):
        read_folder(tmp_path / "absent", 512)
