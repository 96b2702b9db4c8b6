"""What was chosen is judged by who did not choose; prompts are paired; the page shows it."""

import json
import sys
from pathlib import Path

import pytest

from glmimage.evaluation.text_check import TextCheck

sys.path.append(str(Path(__file__).parents[2] / "bench"))
sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import text_check
from text_check_table import text_check_table


def read(found, total=2):
    words = tuple("ab"[:total])
    return TextCheck(words[:found], words[found:], found / total, 0)


@pytest.fixture
def found():
    """Two prompts, three pictures each: words of two that either engine reads."""
    return [
        {"chooser": [read(0), read(2), read(1)], "judge": [read(1), read(2), read(2)]},
        {"chooser": [read(1), read(0), read(2)], "judge": [read(0), read(2), read(1)]},
    ]


@pytest.fixture
def table(found, monkeypatch):
    monkeypatch.setattr(text_check, "RESAMPLES", 200)
    return text_check.compare(found, 3)


def figures(table, reader, metric="word_accuracy"):
    """Return the rows of best of 1, 2 ... in turn."""
    return [row for row in table if row["case"].endswith(f", {reader}") and row["metric"] == metric]


def test_the_chooser_chooses_and_the_judge_counts(table):
    # of three: the second picture of the first prompt, the third of the other
    judged = figures(table, "as the judge reads")
    assert [row["case"].partition(",")[0] for row in judged] == [f"best of {n}" for n in (1, 2, 3)]
    assert [row["ours"] for row in judged] == [0.25, 0.5, 0.75]
    assert [row["ours"] for row in figures(table, "as the chooser reads")] == [0.25, 0.75, 1.0]
    whole = figures(table, "as the judge reads", "pictures with all words")
    assert [row["ours"] for row in whole] == [0, 1, 1]
    (best,) = figures(table, "chosen by the judge itself")
    assert (best["case"].partition(",")[0], best["ours"]) == ("best of 3", 1.0)


def test_gains_are_of_the_same_prompts(table):
    first, second, third = figures(table, "as the judge reads")
    assert "gain" not in first
    assert third["gain"] == 0.5
    low, high = third["gain_interval"]
    assert low == high == 0.5  # either prompt gains one word of two, whichever are drawn
    assert second["gain_interval"] == [0.0, 0.5]


def test_the_page_shows_the_newest_of_all_prompts(table, tmp_path):
    assert text_check_table(tmp_path) == "Not measured yet: `python bench/text_check.py`.\n"
    card = {
        "prompts": 2,
        "words": 4,
        "set": "one_line, abc",
        "size": [512, 512],
        "num_inference_steps": 8,
        "chooser": "rapidocr 3",
        "judge": "tesseract 5",
        "command": "python x",
        "date": "2026-01-02",
        "model": "nano, def",
    }
    for name in ("2026-01-01-text-check", "2026-01-02-text-check", "2026-01-03-text-check-first-2"):
        told = {"card": card | {"date": name[:10]}, "rows": table}
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    shown = text_check_table(tmp_path)
    assert "2026-01-02" in shown
    assert "| 3 | 0.750 (" in shown
    assert "+0.500 (0.500 to 0.500)" in shown
    assert "| 3, chosen by the judge itself | 1.000 |" in shown
