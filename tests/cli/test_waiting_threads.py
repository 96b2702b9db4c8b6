"""Threads of PyTorch sleep while they wait where other processes are busy, else they spin."""

import os
import subprocess
import sys

import pytest

from glmimage.cli import waiting

PROGRAM = """
import os, sys, types
from glmimage.__main__ import main
from glmimage.cli import waiting
waiting._busy_processors = lambda: (2.0, 2)
class Pipeline:
    def load(*arguments, **options):
        print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
        sys.stdout.flush()
        os._exit(0)
sys.modules["glmimage.pipeline"] = types.SimpleNamespace(Pipeline=Pipeline)
sys.argv = ["glmimage", *sys.argv[1:]]
main()
"""


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("busy", "total", "ours", "sleeps"),
    [(0.1, 2, 2, False), (0.9, 2, 2, True), (9.0, 64, 4, False), (63.0, 64, 4, True)],
)
def test_threads_sleep_where_no_processor_is_left_for_them(monkeypatch, busy, total, ours, sleeps):
    monkeypatch.setattr(waiting, "_busy_processors", lambda: (busy, total))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(ours), raising=False)
    waiting.sleep_where_others_work()
    assert os.environ.get("GOMP_SPINCOUNT") == ("0" if sleeps else None)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_environment_says_stays(monkeypatch, name):
    monkeypatch.setenv(name, "5000")
    monkeypatch.setattr(waiting, "_busy_processors", lambda: (8.0, 2))
    waiting.sleep_where_others_work()
    assert os.environ.get("GOMP_SPINCOUNT") == ("5000" if name == "GOMP_SPINCOUNT" else None)


@pytest.mark.parametrize("told", [None, "cpu 1 2\n", ""])
def test_a_system_that_does_not_tell_is_left_alone(monkeypatch, tmp_path, told):
    monkeypatch.setattr(waiting, "PROCESSOR_TIMES", tmp_path / "stat")
    if told is not None:
        (tmp_path / "stat").write_text(told)
    waiting.sleep_where_others_work()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_processors_are_counted():
    if not waiting.PROCESSOR_TIMES.exists():
        pytest.skip("no /proc/stat")
    busy, total = waiting._busy_processors()
    assert 0 <= busy <= total and total >= 1


def test_it_is_decided_before_torch_is_loaded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "generate", "OPEN", "-o", str(tmp_path / "a.png")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["0 False"], done.stderr
