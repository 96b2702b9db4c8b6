"""The full-size run keeps to its time and loses nothing: a dry run of all of it, on the toy."""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import gpu
from full_size import RandomCheckpoint
from gpu_cases import DIFFUSERS, Pace, list_cases
from gpu_ours import OurSide

from glmimage.errors import OutOfMemory

CPU = torch.device("cpu")
STAGES = {"prior", "denoise", "decode", "end to end"}
RATES = {"ms a prior token", "ms a denoise step"}
CASES = list_cases("tiny", 1, 2)
BROKEN = "four"


def bench(folder, out, *arguments):
    asked = ["--scale", "tiny", "--steps", "1", "--requests", "2", "--out", str(out)]
    return gpu.Bench(gpu.parse([*asked, *arguments]), CPU, folder, time.monotonic())


def ran(one):
    """Run all of it; return what was written after each case, and what was told."""
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        one.run()
    written = [json.loads(line) for line in out.getvalue().splitlines()]
    return SimpleNamespace(written=written, last=written[-1], told=told.getvalue().splitlines())


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory):
    """Let one case run out of memory; all others are measured."""
    prepare, out = OurSide.prepare, tmp_path_factory.mktemp("out")

    def prepare_or_fail(self, case, fast):
        if case.key == BROKEN:
            raise OutOfMemory("The device ran out of memory.")
        prepare(self, case, fast)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OurSide, "prepare", prepare_or_fail)
        found = ran(bench(tiny_dir, out, "--minutes", "30"))
    found.file = next(out.glob("*-gpu-tiny.json"))
    return found


def rows_of(run, start):
    return {row["metric"]: row for row in run.last["rows"] if row["case"] == start}


def test_the_result_has_the_form_of_all(run):
    card, rows = run.last["card"], run.last["rows"]
    assert card["device"].startswith("cpu: ")
    assert card["versions"].keys() >= {"torch", "diffusers", "transformers"}
    assert card.keys() >= {"commit", "command", "ceiling", "plan"}
    assert json.loads(run.file.read_text("utf-8")) == run.last
    for row in rows:
        assert row.keys() >= {"case", "metric", "ours", "upstream", "ratio"}
    seen = [(row["case"], row["metric"]) for row in rows]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("case", [c for c in CASES if c.key != BROKEN], ids=lambda case: case.key)
def test_a_case_has_its_rows(run, case):
    modes = {80: "resident", 48: "staged", 24: "staged", 16: "layered"}
    expected = STAGES | RATES
    if case.tokens:
        expected = {"decode"} | RATES
    elif case.is_part:
        expected = {"decode", "denoise", "ms a denoise step"}
    if case.requests > 1:
        expected = expected | {"pictures a second"}
    expected = {"ms a pass with guesses"} if case.guesses else expected | {"peak memory"}
    rows = rows_of(run, case.name(modes.get(case.memory_gb, "")))
    assert rows.keys() == expected
    assert all(row["ours"] > 0 for row in rows.values())


def test_diffusers_stands_beside_what_is_like_it(run):
    cases = {case.key: rows_of(run, case.name()) for case in CASES if not case.memory_gb}
    compared = {
        key: {metric for metric, row in rows.items() if row["upstream"] is not None}
        for key, rows in cases.items()
    }
    assert compared["one"] == STAGES | RATES | {"peak memory"}
    assert compared["many"] == compared["one"] | {"pictures a second"}
    assert compared["small"] == compared["edit"] == compared["large"] == RATES
    for key in ("fewer-steps", "step-cache", "int8", "fp8", "plain", "guesses"):
        assert compared[key] == set()
    for rows in cases.values():
        for row in rows.values():
            if row["upstream"] is not None:
                more_is_better = row["metric"] == "pictures a second"
                ratio = row["upstream"] / row["ours"]
                assert row["ratio"] == pytest.approx(1 / ratio if more_is_better else ratio, 0.02)


def test_a_case_that_fails_is_told_and_loses_no_other(run):
    (broken,) = (case.name() for case in CASES if case.key == BROKEN)
    (row,) = rows_of(run, broken).values()
    assert (row["ours"], row["upstream"], row["ratio"]) == (None, None, None)
    assert row["failed"] == "OutOfMemory: The device ran out of memory."
    assert run.last["card"]["failed"] == {broken: row["failed"]}
    assert f"  failed: {broken}: {row['failed']}" in run.told
    assert run.last["card"]["left_out"] == []


def test_the_result_is_written_after_every_case(run):
    counts = [len(result["rows"]) for result in run.written]
    assert counts == sorted(counts)
    assert len(set(counts)) == len(CASES)  # diffusers adds no row


def test_what_does_not_fit_into_the_time_is_told(tiny_dir, tmp_path):
    done = ran(bench(tiny_dir, tmp_path, "--minutes", "0.001"))
    assert done.last["rows"] == []
    left_out = done.last["card"]["left_out"]
    assert len(left_out) == len(CASES) + 1
    told = [line for line in done.told if line.startswith("  left out: ")]
    assert told == [f"  left out: {name}" for name in left_out]
    assert left_out[0] == f"{CASES[0].name()}: the time is over"


def test_a_case_is_left_out_by_what_was_measured(tiny_dir, tmp_path, monkeypatch):
    one = bench(tiny_dir, tmp_path)
    cases = {case.key: case for case in list_cases("full", 50, 16)}
    # as an H200 was measured, its networks being placed already
    one.pace = Pace(cases["one"], 0.007, 0.2, 0.2)
    one.dit = SimpleNamespace(config=SimpleNamespace(inner_dim=4096, num_layers=30))
    one.side.setup = one.side.setup_of(cases["one"])
    monkeypatch.setattr(one, "left_s", lambda: 45.0)
    for key in ("one", "many", "small", "edit"):  # of many, two pictures are worth it
        one.check(cases[key])
    for key in ("large", "four"):
        with pytest.raises(gpu.LeftOut, match="s of 45 s left"):
            one.check(cases[key])
    one.pace.start_s = {False: 44.0}
    one.check(cases["small"])
    with pytest.raises(gpu.LeftOut):
        one.check(cases["plain"])  # the networks would have to be placed anew
    assert one.pace.expected_s(cases["many"], one.dit) == pytest.approx(16 * 10.2 + 2 * 9, rel=0.01)


def test_an_unknown_case_is_refused_before_anything_runs(tiny_dir, tmp_path):
    with pytest.raises(SystemExit, match="no case 'two'; known: one, diffusers, many, "):
        bench(tiny_dir, tmp_path, "--cases", "one,two").run()


def test_names_tell_cases_apart():
    for scale in gpu.SIZES:
        cases = list_cases(scale, 50, 16)
        assert len({case.key for case in cases} | {DIFFUSERS}) == len(cases) + 1
        assert len({case.name() for case in cases}) == len(cases)
        # what has to be reached comes first
        assert [case.key for case in cases if case.must] == [case.key for case in cases[:2]]


def test_the_full_size_is_placed_as_on_cards_of_less_memory(tiny_dir):
    from glmimage.memory import GLM_IMAGE

    cases = {case.key: case for case in list_cases("full", 50, 16)}
    side = OurSide(tiny_dir, "full", CPU, torch.bfloat16, cases["one"])
    assert side.needs(cases["one"]).prior == GLM_IMAGE.prior
    assert side.needs(cases["one"]).prior_layer == GLM_IMAGE.prior_layer
    modes = [side.plan(cases[key]).mode for key in ("80gb", "24gb", "16gb")]
    assert modes == ["resident", "staged", "layered"]
    assert side.streamed_bytes(cases["24gb"]) == (0, 0)
    prior, decode = side.streamed_bytes(cases["16gb"])
    assert 0 < prior < GLM_IMAGE.prior
    assert 0 < decode < GLM_IMAGE.decode
    assert side.needs(cases["int8"]).prior < 0.7 * GLM_IMAGE.prior


def test_random_networks_are_streamed_and_packed_as_a_checkpoint_s(tiny_dir):
    from glmimage.loading.quantized import QuantizedLinear

    checkpoint = RandomCheckpoint(tiny_dir, "middle")
    streamed = checkpoint.load_dit(CPU, torch.float32, None, 1)
    there = [block.qkv.weight.is_meta for block in streamed.blocks]
    assert there == [False, True, True]
    packed = checkpoint.load_dit(CPU, torch.float32, None, None, "int8")
    assert all(isinstance(block.qkv, QuantizedLinear) for block in packed.blocks)
    sizes = {"latents": (1, 16, 8, 8), "glyphs": (1, 2, 1472)}
    given = [torch.ones(size) for size in sizes.values()]
    rest = (torch.zeros(1, 16, dtype=torch.long), torch.zeros(1, dtype=torch.bool), torch.ones(1))
    size = torch.tensor([[64, 64]])
    with torch.inference_mode():
        for network in (streamed, packed):
            velocity = network(*given, *rest, size, torch.zeros_like(size))
            assert velocity.shape == (1, 16, 8, 8)
            assert velocity.isfinite().all()
