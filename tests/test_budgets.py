"""The package stays small enough to read: CONTRIBUTING.md names the numbers."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "glmimage"
RULE = re.search(
    r"Files up to (\d+) lines, functions up to \d+, `model/` up to ([\d,]+) in all",
    (ROOT / "CONTRIBUTING.md").read_text("utf-8"),
)
FILE_LINES, MODEL_LINES = (int(number.replace(",", "")) for number in RULE.groups())
FILES = sorted(PACKAGE.rglob("*.py"))


def num_lines(path):
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path):
    assert num_lines(path) <= FILE_LINES


def test_the_networks_are_read_in_an_afternoon():
    assert sum(num_lines(path) for path in FILES if path.parent.name == "model") > 1000
    assert sum(num_lines(path) for path in FILES if path.parent.name == "model") <= MODEL_LINES
