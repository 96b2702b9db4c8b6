import pytest

from glmimage.evaluation.placing import find_position, is_aligned
from glmimage.evaluation.reading import Line


def line(left, right, top=100, bottom=140):
    return Line("x", (left, top, right, bottom))


@pytest.mark.parametrize(
    ("top", "bottom", "third"),
    [
        (10, 60, "top"),
        (140, 190, "top"),
        (230, 280, "middle"),
        (330, 350, "middle"),
        (400, 500, "bottom"),
    ],
)
def test_position_is_the_third_of_the_middle(top, bottom, third):
    assert find_position([line(0, 9, top, bottom)], 512) == third


def test_position_of_several_lines_is_that_of_all():
    assert find_position([line(0, 9, 10, 60), line(0, 9, 440, 500)], 512) == "middle"


@pytest.mark.parametrize(
    ("boxes", "asked"),
    [
        ([(40, 240)], "left"),
        ([(40, 240), (42, 400)], "left"),
        ([(270, 480), (100, 476)], "right"),
        ([(156, 356), (100, 412)], "center"),
    ],
)
def test_alignment_is_told_apart(boxes, asked):
    lines = [line(*box, 100 * i, 100 * i + 40) for i, box in enumerate(boxes)]
    answers = [name for name in ("left", "center", "right") if is_aligned(lines, 512, name)]
    assert answers == [asked]


def test_ragged_lines_are_not_aligned():
    lines = [line(40, 240, 0, 40), line(120, 260, 100, 140)]
    assert not is_aligned(lines, 512, "left")


def test_a_line_of_full_width_stands_everywhere():
    assert all(is_aligned([line(30, 490)], 512, name) for name in ("left", "center", "right"))


def test_words_side_by_side_are_one_line():
    assert is_aligned([line(156, 240), line(260, 356)], 512, "center")
