import collections
import json
from pathlib import Path

import pytest

from glmimage.errors import InvalidRequest
from glmimage.evaluation.rows import load_rows
from glmimage.quotes import get_glyph_texts

SETS = Path(__file__).parents[2] / "recipes" / "nano" / "eval"
ROW = {"prompt": "A sign that says 'OPEN'", "texts": ["OPEN"]}


def write(tmp_path, *rows):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_short_row_gets_what_it_leaves_out(tmp_path):
    (row,) = load_rows(write(tmp_path, ROW))
    assert (row.id, row.seed, row.width, row.height) == ("set-001", 1, 512, 512)
    assert row.conditions == {"size": "square", "strings": "1", "length": "1-10", "style": "any"}


def test_a_size_replaces_that_of_the_rows(tmp_path):
    (row,) = load_rows(write(tmp_path, {**ROW, "width": 512, "height": 768}), (1024, 576))
    assert (row.width, row.height) == (1024, 576) and row.conditions["size"] == "landscape_16_9"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prompt": ""}, "empty"),
        ({"texts": None}, "Row 1"),
        ({"width": 500}, "500 px"),
        ({"id": "../a"}, "no file name"),
        ({"asked": {"background": "blurple"}}, "'blurple' is unknown"),
        ({"asked": {"positions": ["left"]}}, "'left' is none of top"),
        ({"asked": {"positions": [None, "top"]}}, "more positions"),
        ({"asked": {"mood": "calm"}}, "mood cannot be judged"),
        ({"change": {"effect": "cubism"}}, "'cubism'"),
        ({"change": {"keep": ["sky"]}}, "sky"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        load_rows(write(tmp_path, {**ROW, **change}))


def test_an_id_is_used_once(tmp_path):
    with pytest.raises(InvalidRequest, match="twice"):
        load_rows(write(tmp_path, {**ROW, "id": "a"}, {**ROW, "id": "a"}))


@pytest.mark.parametrize("content", ["", "{}", "[]", "nonsense"])
def test_what_is_no_set_is_refused(tmp_path, content):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(InvalidRequest, match=r"set\.json"):
        load_rows(tmp_path / "set.json")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_rows(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("name", "least"),
    [("freely_written", 64), ("held_out", 240), ("edits", 60), ("own_edits", 60), ("one_line", 40)],
)
def test_the_sets_are_whole(name, least):
    rows = load_rows(SETS / f"{name}.json")
    assert len(rows) >= least
    assert len({row.prompt for row in rows}) >= 0.97 * len(rows)
    for row in rows:
        assert all(source.exists() for source in row.sources), row.id
        assert bool(row.change) == name.endswith("edits")
        # an apostrophe opens a quote in the model's own rule, and people write them all the same
        if not name.endswith("edits") and "'s " not in row.prompt:
            assert get_glyph_texts(row.prompt) == list(row.texts), row.id
            assert sum(map(len, row.texts)) <= 44


def test_the_first_rows_of_the_held_out_set_are_a_fair_sample():
    rows = load_rows(SETS / "held_out.json")
    for start in range(0, len(rows), 24):
        part = rows[start : start + 24]
        strings = collections.Counter(row.conditions["strings"] for row in part)
        styles = collections.Counter(row.conditions["style"] for row in part)
        assert strings == {"1": 9, "2": 9, "3": 6}
        assert set(styles.values()) == {6}
        assert sum(row.conditions["size"] == "square" for row in part) == 9
