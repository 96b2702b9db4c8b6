import numpy as np
import pytest

from glmimage.evaluation.judge import Verdict
from glmimage.evaluation.report import as_markdown, compare, summarise


def verdict(name, values, **conditions):
    return Verdict(name, conditions, values)


def test_words_are_pooled_and_conditions_told_apart():
    found = summarise(
        [
            verdict("a", {"word_accuracy": [1, 1, 1]}, size="square"),
            verdict("b", {"word_accuracy": [0], "background": [1]}, size="square_hd"),
        ]
    )
    assert found["figures"]["word_accuracy"]["mean"] == 0.75
    assert found["figures"]["word_accuracy"]["num_values"] == 4
    assert found["figures"]["colours"] == found["figures"]["background"]
    sizes = found["conditions"]["size"]
    assert sizes["square"]["word_accuracy"]["mean"] == 1
    assert sizes["square_hd"]["word_accuracy"]["mean"] == 0


def test_groups_pool_their_members():
    figures = summarise([verdict("a", {"position": [1, 0], "style": [1], "alignment": [1]})])[
        "figures"
    ]
    assert figures["layout"]["mean"] == 0.75


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        rows = [verdict(str(i), {"ned": [float(rng.random() < 0.8)]}) for i in range(100)]
        low, high = summarise(rows)["figures"]["ned"]["ci95"]
        covered += low <= 0.8 <= high
    assert covered >= 51


def test_pairs_cancel_what_both_runs_share():
    rng = np.random.default_rng(2)
    base = rng.random(60)
    old = [verdict(str(i), {"ned": [float(v)]}) for i, v in enumerate(base)]
    new = [verdict(str(i), {"ned": [float(v) + 0.05]}) for i, v in enumerate(base)]
    figure = compare(old, [*new, verdict("only new", {"ned": [0.0]})])["ned"]
    assert figure["difference"] == pytest.approx(0.05, abs=1e-4)
    assert figure["ci95"] == pytest.approx([0.05, 0.05], abs=1e-4)
    assert figure["num_prompts"] == 60


def test_runs_without_a_common_prompt_have_no_difference():
    assert compare([verdict("a", {"ned": [1.0]})], [verdict("b", {"ned": [1.0]})]) == {}


def test_the_table_has_every_figure():
    rows = [verdict("a", {"word_accuracy": [1, 0], "style": [1]}, size="square")]
    table = as_markdown(summarise(rows), compare(rows, rows))
    assert "| word accuracy | 0.500 | 0.500 to 0.500 | 2 | 1 |" in table
    assert "| square | 1 | 0.500 (0.500 to 0.500) |" in table
    assert "| word accuracy | 0.500 | 0.500 | +0.000 | +0.000 to +0.000 |" in table
