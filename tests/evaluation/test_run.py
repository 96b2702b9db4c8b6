import json

import pytest

from glmimage.cli import run as run_command
from glmimage.errors import GlmImageError, InvalidRequest
from glmimage.evaluation import reading
from glmimage.evaluation.rows import load_rows
from glmimage.evaluation.run import evaluate, load_results, write_report

TEXTS = ["OPEN", "Tea House", "Room 12"]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "three.json"
    raw = [
        {"prompt": f"A sign '{text}'", "texts": [text], "asked": {"background": "teal"}}
        for text in TEXTS
    ]
    path.write_text(json.dumps(raw))
    return load_rows(path)


class Painter:
    """Paint truth, read it without looking, and count."""

    def __init__(self, drawing, knows):
        self.drawing, self.knows, self.painted = drawing, knows, []

    def __call__(self, row, sources):
        self.painted.append(row.id)
        self.last = self.drawing.design_of(row)
        return self.drawing.draw(self.last)

    def read(self, picture):
        return self.knows(self.last).read(picture)


@pytest.fixture
def painter(drawing, knows):
    return Painter(drawing, knows)


def test_a_stopped_run_goes_on_where_it_was(painter, rows, tmp_path):
    path = tmp_path / "out" / "three.jsonl"
    first = next(evaluate(rows, {"model": "m"}, path, lambda: painter, painter))
    with path.open("a") as file:
        file.write('{"id": "three-0')  # killed while writing
    verdicts = list(evaluate(rows, {"model": "m"}, path, lambda: painter, painter))
    assert painter.painted == ["three-001", "three-002", "three-003"]
    assert verdicts[0] == first and load_results(path).verdicts == tuple(verdicts)
    document = write_report(rows, verdicts, path, load_results(path))
    assert document["figures"]["word_accuracy"]["mean"] == 1
    assert document["compared_with"]["figures"]["word_accuracy"]["difference"] == 0
    for suffix in (".json", ".md", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 100


def test_results_of_another_model_are_not_continued(painter, rows, tmp_path):
    path = tmp_path / "three.jsonl"
    list(evaluate(rows, {"model": "m"}, path, lambda: painter, painter))
    with pytest.raises(InvalidRequest, match="another model"):
        list(evaluate(rows, {"model": "n"}, path, lambda: painter, painter))


def test_nothing_is_loaded_when_everything_is_judged(painter, rows, tmp_path):
    path = tmp_path / "three.jsonl"
    list(evaluate(rows, {}, path, lambda: painter, painter))
    assert len(list(evaluate(rows, {}, path, lambda: pytest.fail("loaded"), painter))) == 3


def test_pictures_of_any_program_are_judged(drawing, rows, tmp_path, capsys):
    for row in rows:
        drawing.draw(drawing.design_of(row)).save(tmp_path / f"{row.id}.png")
    command = ["eval", "text", str(tmp_path / "three.json"), "--pictures", str(tmp_path)]
    command += ["--out", str(tmp_path / "out"), "--json"]
    assert run_command(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_prompts"] == 3
    assert document["figures"]["background"]["mean"] == 1
    assert document["figures"]["word_accuracy"]["mean"] == 1
    (tmp_path / "three-002.png").unlink()
    assert run_command([*command, "--out", str(tmp_path / "again")]) == 2
    assert "no picture of 'three-002'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["absent.json"], "cannot be read"),
        (["SET", "--compare", "SET"], "no result file"),
        (["SET", "--pictures", "nowhere"], "no folder"),
        (["SET", "--size", "500x500"], "500"),
        (["SET", "--guidance", "99"], "guidance_scale"),
        (["SET", "--model", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(rows, tmp_path, capsys, options, complaint):
    words = [str(tmp_path / "three.json") if word == "SET" else word for word in options]
    assert run_command(["eval", "text", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.startswith("Error: ") and error.count("\n") == 1


def test_a_missing_reader_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(GlmImageError, match="cannot be read") as failure:
        reading.Reader()
    assert "pip install 'glmimage[eval]'" in failure.value.hint
