"""A result says what was measured and not where it was written; what is missing stays empty."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from infer import compare, growth
from performance import performance_page, readme_table
from record import command_line

CARD = {
    "model": "big", "device": "a GPU", "date": "2026-01-02", "system": "Linux", "threads": 2,
    "versions": {"torch": "1"}, "commit": "abc", "command": "python bench/gpu.py", "repeats": 1,
    "dtypes": {"ours": "bfloat16", "upstream": "bfloat16"},
    "ceiling": {"flop_per_s": 7.828e14, "bytes_per_s": 9e11},
}  # fmt: skip
STAGES = {"prior": 8.0, "denoise": 10.0, "decode": 0.2, "end to end": 18.2}


@pytest.fixture
def result():
    rows = [
        {"case": "8x8, 5 steps", "metric": name, "ours": value, "upstream": None, "ratio": None}
        for name, value in STAGES.items()
    ]
    rows[1] |= {"flop_per_s": 5.6e14, "share_of_ceiling": 0.72}
    return {"file": "one.json", "card": CARD, "rows": rows}


@pytest.mark.parametrize("out", [["--out", "/somewhere/else"], ["--out=/somewhere/else"]])
def test_the_folder_is_no_part_of_the_command(out):
    arguments = ["/a/place/gpu.py", "--minutes", "6", *out, "--profile"]
    assert command_line(arguments) == "python bench/gpu.py --minutes 6 --profile"


def test_growth_is_counted_from_the_smallest_picture_of_the_same_kind():
    """Of both sides, stage by stage; a ratio above 1 says that ours grows less."""
    cases, rows = [], []
    for references in (0, 1):
        for side in (1024, 512):
            case = {"width": side, "height": side, "steps": 3, "requests": 1}
            cases.append(case | {"references": references})
            times = 5.0 if side > 512 and not references else 1.0
            ours = {"prior_s": 2.0, "denoise_s": times, "decode_s": 1.0, "total_s": 3.0 + times}
            ours |= {"peak_memory_bytes": 4.0, "denoise_flop": 6.0, "prior_bytes": 8.0}
            theirs = ours | {"denoise_s": 10 * times if side > 512 else 1.0}
            ceiling = {"flop_per_s": 12.0, "bytes_per_s": 16.0}
            rows += compare(cases[-1], {"ours": [ours], "upstream": [theirs]}, ceiling)
    assert rows[0] | {"bytes_per_s": 4.0, "share_of_ceiling": 0.25} == rows[0]
    found = {(row["case"], row["metric"]): row for row in growth(cases, rows)}
    assert len(found) == 8
    plain = found["512x512 to 1024x1024, 3 steps", "growth, denoise"]
    assert (plain["ours"], plain["upstream"], plain["ratio"]) == (5.0, 50.0, 10.0)
    name = "512x512 to 1024x1024, 3 steps, 1 of 512 px as reference"
    assert found[name, "growth, denoise"]["ours"] == 1.0
    page = performance_page("", [{"file": "a", "card": CARD, "rows": [*rows, *found.values()]}])
    assert f"| {name} | denoise, times as long | 1.00 | 10.00 | 10.00 |  |" in page


def test_a_run_without_diffusers_has_no_column_for_it(result):
    result["rows"][0]["target"] = "6"
    page = performance_page("", [result])
    assert "| picture | | ours | to reach | ours, of the ceiling |" in page
    assert "| 8x8, 5 steps | prior, s | 8.00 | 6 |  |" in page
    assert "| 8x8, 5 steps | denoise, s | 10.00 |  | 560 TFLOP/s, 72% |" in page
    assert "783 TFLOP/s in a large product and \n900.0 GB/s in a copy" in page
    assert "1 counted run; diffusers was not measured." in page
    assert "| 18.20 s | not measured |" in readme_table([result])


def test_a_number_that_diffusers_lacks_is_empty(result):
    result["rows"][0] |= {"upstream": 16.0, "ratio": 2.0}
    page = performance_page("", [result])
    assert "| picture | | ours | diffusers | ratio | ours, of the ceiling |" in page
    assert "| 8x8, 5 steps | prior, s | 8.00 | 16.00 | 2.00 |  |" in page
    assert "| 8x8, 5 steps | decode, s | 0.20 |  |  |  |" in page


def test_lossy_switches_are_compared_with_the_exact_mode_and_not_with_diffusers(result):
    """They have no stages, and no place in README's table of stages."""
    pair = {"case": "20 steps", "ours": 0.9, "upstream": 0.95, "ratio": 0.947}
    spread = {"difference": -0.05, "ci95": [-0.1, 0.0]}
    rows = [
        {**pair, "metric": "word_accuracy", **spread},
        {**pair, "metric": "end to end", "ours": 2.0, "upstream": 3.0, "ratio": 1.5},
    ]
    card = {**CARD, "clock": "CPU seconds of the process", "date": "2026-01-03"}
    lossy = {"file": "lossy.json", "card": card, "rows": rows}
    page = performance_page("", [lossy])
    assert "ours on both sides" in page and "diffusers" not in page.split("## big")[1]
    assert "| picture | | switched | exact | ratio | difference, 95 % |" in page
    assert "| 20 steps | word accuracy | 0.900 | 0.950 | 0.95 | -0.050 (-0.100 to +0.000) |" in page
    assert readme_table([lossy, result]) == readme_table([result])


def test_ways_of_our_own_are_compared_with_what_the_card_says(result):
    result["card"]["against"] = "none of the switches"
    for row in result["rows"]:
        row |= {"upstream": 2 * row["ours"], "ratio": 2.0}
    page = performance_page("", [result])
    assert "ours on both sides" in page
    assert "Ways of our own, beside none of the switches." in page
    assert "| picture | | switched | none of the switches | ratio |  |" in page
    assert "diffusers" not in page.split("## big")[1]
