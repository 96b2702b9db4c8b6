"""Every result has one form, and its ratios say what its numbers do."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import record
from record import in_form, result_file, row, write_result

FILES = sorted(record.RESULTS.glob("*.json"))
CARD = {"device": "cpu: A Processor (R)", "versions": {}, "commit": None, "date": "2026-01-02"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_has_the_form_of_all(file):
    result = json.loads(file.read_text("utf-8"))
    assert result["card"].keys() >= {"device", "versions", "commit", "date", "command"}
    assert result["rows"]
    assert in_form(result) == result
    seen = [(one["case"], one["metric"]) for one in result["rows"]]
    assert len(set(seen)) == len(seen)
    for one in result["rows"]:
        assert one.keys() >= {"case", "metric", "ours", "upstream", "ratio"}
        assert isinstance(one["ours"], int | float) or one.get("failed")
        compared = [one["upstream"] is not None, one["ratio"] is not None]
        assert all(compared) or not any(compared), one


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_ratio_is_that_of_its_numbers(file):
    for one in json.loads(file.read_text("utf-8"))["rows"]:
        if one["ratio"] is not None:
            expected = record.ratio(one["metric"], one["ours"], one["upstream"])
            # numbers are written with three digits after the point or more, ratios with two
            rounded = 0.0005 / one["ours"] + 0.0005 / one["upstream"]
            assert one["ratio"] == pytest.approx(expected, rel=rounded, abs=0.006), one


def test_which_way_is_better_depends_on_the_metric():
    assert row("a", "denoise", 2.0, 6.0)["ratio"] == 3.0
    assert row("a", "tokens_per_s", 6.0, 2.0)["ratio"] == 3.0
    assert row("a", "word_accuracy", 0.0, 0.5)["ratio"] == 0.0
    assert row("a", "word_accuracy", 0.5, 0.0)["ratio"] is None


def test_a_row_without_upstream_says_so():
    empty = {"upstream": None, "ratio": None}
    expected = {"case": "a", "metric": "p50 ms", "ours": 1.235, **empty, "target": 3}
    assert row("a", "p50 ms", 1.23456, digits=3, target=3) == expected
    (filled,) = in_form({"card": CARD, "rows": [{"case": "a", "metric": "b", "ours": 1}]})["rows"]
    assert filled == {"case": "a", "metric": "b", "ours": 1, **empty}


@pytest.mark.parametrize("missing", ["device", "versions", "commit"])
def test_a_card_that_says_too_little_is_refused(missing):
    card = {key: value for key, value in CARD.items() if key != missing}
    with pytest.raises(ValueError, match=missing):
        in_form({"card": card, "rows": []})


def test_what_is_written_is_printed_and_named_by_day_and_device(tmp_path, capsys):
    result = {"card": CARD, "rows": [row("a", "denoise", 2.0, 6.0)]}
    write_result(result, "infer", tmp_path)
    file = result_file(result, "infer", tmp_path)
    assert file.name == "2026-01-02-cpu-a-processor-r-infer.json"
    assert json.loads(file.read_text()) == json.loads(capsys.readouterr().out) == result


def test_a_card_says_what_was_measured_where(monkeypatch):
    monkeypatch.setenv("COMMIT", "abc")
    card = record.card(packages=("torch",), model="toy")
    assert card.keys() >= {"date", "device", "system", "versions", "commit", "command", "model"}
    assert card["device"].startswith("cpu: ")
    assert card["versions"].keys() == {"python", "glmimage", "torch"}
    assert card["commit"] == "abc"
