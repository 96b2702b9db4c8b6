import pytest

from glmimage.evaluation.reading import Line
from glmimage.evaluation.words import assign_lines, edit_distance, score_words


def line(text, y=0.0, x=0.0):
    return Line(text, (x, y, x + 10.0 * len(text), y + 20.0))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "abc", 3), ("open", "open", 0), ("open", "opan", 1), ("ab", "ba", 2)],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_a_part_of_a_longer_text_is_no_distance():
    assert edit_distance("pen", "the open door", inside=True) == 0
    assert edit_distance("pan", "the open door", inside=True) == 1


def test_words_are_found_whatever_their_case_and_order():
    scores = score_words(["Grand OPENING"], [line("opening"), line("GRAND", 30)])
    assert scores.found == (True, True) and scores.ned == (1.0, 1.0) and scores.extra == 0
    assert scores.exact == (False,)


def test_a_wrong_letter_costs_its_part():
    scores = score_words(["Grand Opening"], [line("Grand Opeming")])
    assert scores.found == (True, False)
    assert scores.ned == (1.0, pytest.approx(6 / 7))


def test_nothing_read_is_nothing_found():
    scores = score_words(["Open"], [])
    assert (scores.found, scores.ned, scores.exact) == ((False,), (0.0,), (False,))


def test_words_nobody_asked_for_are_counted():
    assert score_words(["Open"], [line("Open"), line("xylophone")]).extra == 1


def test_strings_get_their_own_lines_in_reading_order():
    lines = [
        line("2026", 100),
        line("Summit", 30),
        line("AI", 30, x=-90),
        line("Berlin", 101, x=200),
    ]
    own = assign_lines(["AI Summit", "Berlin", "2026"], lines)
    assert [[one.text for one in some] for some in own] == [["AI", "Summit"], ["Berlin"], ["2026"]]


def test_a_line_that_holds_two_strings_goes_to_one():
    own = assign_lines(["Pasta", "$14"], [line("Pasta $14")])
    assert [len(some) for some in own] == [1, 0]


def test_a_circle_read_as_a_letter_is_no_part_of_a_text():
    own = assign_lines(["Woods", "Plan B"], [line("O", 50), line("Plan"), line("B", 80)])
    assert [[one.text for one in some] for some in own] == [[], ["Plan", "B"]]
