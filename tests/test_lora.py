"""Adapters as users name them: text, folders, limits, and one sentence for whatever is wrong."""

import json

import pytest

from glmimage import GenerationRequest, Lora
from glmimage.errors import InvalidLora
from glmimage.lora import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_lora,
    lora_names,
    lora_parts,
    lora_scale,
    lora_version,
    parse_lora,
    read_lora_config,
)


@pytest.fixture
def adapters(tmp_path):
    """Give the function that writes something that looks like adapters."""

    def write(name="style", part="prior", **changes):
        folder = tmp_path / name / part
        folder.mkdir(parents=True)
        config = {"peft_type": "LORA", "lora_alpha": 8, "r": 4} | changes
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        (folder / WEIGHTS_FILE).write_bytes(b"x")
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style", Lora("style", 1.0)),
        ("style:0.5", Lora("style", 0.5)),
        ("a:b/style:2", Lora("a:b/style", 2.0)),
        ("a:b/style", Lora("a:b/style", 1.0)),
        ("style:", Lora("style:", 1.0)),
    ],
)
def test_text(text, expected):
    assert parse_lora(text) == expected


def test_a_folder_may_be_called_like_a_scale(tmp_path, monkeypatch):
    (tmp_path / "a:1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_lora("a:1") == Lora("a:1", 1.0)


@pytest.mark.parametrize(
    ("loras", "words"),
    [
        ("style", "a sequence of Lora"),
        (["style"], "a sequence of Lora"),
        ([Lora("a")] * 5, "5 adapters were given; at most 4"),
        ([Lora("a", -0.1)], "The scale of adapter 'a' is -0.1"),
        ([Lora("a", 4.1)], "between 0 and 4"),
        ([Lora("a", float("nan"))], "is nan"),
        ([Lora("a", True)], "is True"),
    ],
)
def test_requests_refuse(loras, words):
    with pytest.raises(InvalidLora, match=words) as caught:
        GenerationRequest("A sign", loras=loras)
    assert caught.value.field == "loras"


def test_parts(adapters, tmp_path):
    adapters()
    assert lora_parts(adapters(part="decoder")) == ("prior", "decoder")
    with pytest.raises(InvalidLora, match="There is no folder of adapters"):
        lora_parts(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidLora, match="holds neither"):
        lora_parts(tmp_path / "empty")
    (tmp_path / "style/prior" / WEIGHTS_FILE).unlink()
    with pytest.raises(InvalidLora, match=f"prior/{WEIGHTS_FILE} is missing"):
        lora_parts(tmp_path / "style")


def test_scales(adapters):
    assert read_lora_config(adapters() / "prior") == (8.0, False)
    assert lora_scale(8, 4, False) == 2
    assert lora_scale(8, 4, True) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "of kind LOHA"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern"),
        ({"lora_alpha": "much"}, "cannot be used: ValueError"),
        ({"lora_alpha": None}, "cannot be used: TypeError"),
    ],
)
def test_other_kinds_are_refused(adapters, changes, words):
    with pytest.raises(InvalidLora, match=words):
        read_lora_config(adapters(**changes) / "prior")


def test_a_config_that_is_no_json(adapters):
    folder = adapters() / "prior"
    (folder / CONFIG_FILE).write_text("[")
    with pytest.raises(InvalidLora, match="cannot be used: JSONDecodeError"):
        read_lora_config(folder)


def test_names(adapters, tmp_path):
    adapters("one")
    adapters("two", "decoder")
    (tmp_path / "notes").mkdir()
    assert lora_names(tmp_path) == ["one", "two"]
    assert lora_names(tmp_path / "absent") == lora_names(None) == []
    assert find_lora(tmp_path, "two") == tmp_path / "two"
    for name in ("three", "notes", "", ".", "..", "../one", str(tmp_path / "one"), "one/"):
        with pytest.raises(InvalidLora, match="known are: one, two"):
            find_lora(tmp_path, name)
    with pytest.raises(InvalidLora, match="this server has none"):
        find_lora(None, "one")


def test_a_new_training_is_a_new_version(adapters):
    path = adapters()
    before = lora_version(path)
    assert lora_version(path) == before
    (path / "prior" / WEIGHTS_FILE).write_bytes(b"xy")
    assert lora_version(path) != before
