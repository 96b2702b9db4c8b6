"""`--verify-text` and `--best-of`."""

import json

import numpy as np
import pytest
from PIL import Image

from glmimage.cli import run
from glmimage.evaluation.reading import Line

FAST = ["--size", "square", "--steps", "1", "--device", "cpu", "--dtype", "float32", "--seed", "7"]
PROMPT = "A sign 'OPEN late'"


class Reader:
    """Read more in each picture than in the one before."""

    words = ("", "OPEN", "OPEN late")
    num_read = 0

    def read(self, picture):
        word = self.words[min(self.num_read, 2)]
        self.num_read += 1
        return (Line(word, (0, 0, 9, 9)),) if word else ()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("glmimage.evaluation.reading.Reader", Reader)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_words_found_and_missing_are_told(folder, tiny_dir, capsys):
    command = ["generate", PROMPT, "-o", "a.png", "--model", str(tiny_dir), *FAST]
    assert run([*command, "--verify-text", "--num-images", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "a-1.png  found none of its words; missing: OPEN late"
    assert lines[3] == "a-2.png  found: OPEN; missing: late"


def test_the_best_is_kept(folder, tiny_dir, capsys):
    command = ["generate", PROMPT, "--model", str(tiny_dir), *FAST, "--json"]
    assert run([*command, "-o", "all.png", "--num-images", "3"]) == 0
    capsys.readouterr()
    assert run([*command, "-o", "best.png", "--best-of", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text_check"] == [
        {"found": ["OPEN", "late"], "missing": [], "accuracy": 1.0, "similarity": 1.0}
    ]
    best = np.asarray(Image.open(folder / "best.png"))
    assert np.array_equal(best, np.asarray(Image.open(folder / "all-3.png")))
    assert sorted(path.name for path in folder.glob("best*")) == ["best.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([PROMPT, "--best-of", "5"], "--best-of is 5; it must be between 1 and 4"),
        ([PROMPT, "--best-of", "0"], "--best-of is 0"),
        ([PROMPT, "--best-of", "2", "--num-images", "3"], "as many or more"),
        ([PROMPT, "--best-of", "2", "--num-images", "0"], "num_images is 0"),
        (["A hill", "--verify-text"], "no words in quotes"),
        (["A hill ''", "--best-of", "2"], "no words in quotes"),
    ],
)
def test_what_cannot_be(options, sentence, capsys):
    assert run(["generate", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_reader(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    assert run(["generate", PROMPT, "--verify-text"]) == 2
    assert "pip install 'glmimage[eval]'" in capsys.readouterr().err
