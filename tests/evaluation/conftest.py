"""Posters with known truth, drawn by the script that measures the judge."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest

from glmimage.evaluation.reading import Line, Reader

SETS = Path(__file__).parents[2] / "recipes" / "nano" / "eval"


@pytest.fixture(scope="session")
def drawing():
    """Import recipes/nano/eval/draw.py; skip where its fonts are missing."""
    spec = importlib.util.spec_from_file_location("draw", SETS / "draw.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = module
    spec.loader.exec_module(module)
    try:
        module.load_font("LiberationSans-Bold.ttf", 20)
        module.load_font("DejaVuSans.ttf", 20)
    except SystemExit as missing:
        pytest.skip(str(missing))
    return module


@pytest.fixture(scope="session")
def reader():
    return Reader()


class _Knows:
    """A reader that reads a design instead of its picture."""

    def __init__(self, drawing, design):
        self._lines = []
        sides = (design.width, design.height) * 2
        for number in dict.fromkeys(text.string for text in design.texts):
            for text in [one for one in design.texts if one.string == number]:
                alone = drawing.Design(design.width, design.height, (0, 0, 0), texts=(text,))
                box = drawing.text_box(alone, number)
                box = tuple(part * side for part, side in zip(box, sides, strict=True))
                self._lines.append(Line(text.text, box))

    def read(self, picture):
        return tuple(self._lines)


@pytest.fixture(scope="session")
def knows(drawing):
    """Return a reader that knows what stands in a design: `knows(design)`."""
    return functools.partial(_Knows, drawing)


@pytest.fixture
def judged(drawing, knows):
    """Judge a drawn row by another row's wishes: `judged(drawn, wanted)`."""
    from glmimage.evaluation.judge import judge

    def judge_as(drawn, wanted):
        design = drawing.design_of(drawn)
        return judge(drawing.draw(design), wanted, knows(design))

    return judge_as
