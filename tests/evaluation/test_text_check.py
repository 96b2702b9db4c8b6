"""What counts as read, and which picture is the best."""

from PIL import Image

from glmimage.evaluation.reading import Line
from glmimage.evaluation.text_check import TextCheck, check_text, choose_best

PICTURE = Image.new("RGB", (64, 64))


class Reads:
    """A reader that reads what it is told."""

    def __init__(self, *lines):
        self.lines = lines
        self.num_read = 0

    def read(self, picture):
        self.num_read += 1
        rows = enumerate(self.lines)
        return tuple(Line(text, (0.0, 20.0 * row, 60.0, 20.0 * row + 10)) for row, text in rows)


def test_words_are_told_as_the_prompt_writes_them():
    check = check_text(PICTURE, "A sign 'OPEN Daily' and “Café”", Reads("open dail", "café"))
    assert check.found == ("OPEN", "Café")
    assert check.missing == ("Daily",)
    assert check.accuracy == 2 / 3
    assert 0.9 < check.similarity < 1


def test_nothing_to_read_is_not_read():
    reader = Reads("OPEN")
    check = check_text(PICTURE, "A hill, and '' too", reader)
    assert (check.found, check.missing, check.accuracy, check.similarity) == ((), (), 1.0, 1.0)
    assert reader.num_read == 0


def check(accuracy, similarity=1.0, num_extra=0):
    number = round(accuracy * 4)
    return TextCheck(("w",) * number, ("w",) * (4 - number), similarity, num_extra)


def test_the_best_has_most_words_then_the_nearest_then_the_fewest_extra():
    checks = [check(0.5, 0.9), check(0.75, 0.8), check(0.75, 0.9, 2), check(0.75, 0.9, 1)]
    assert choose_best(checks, 4) == [3, 2, 1, 0]
    assert choose_best(checks, 1) == [3]


def test_of_equals_the_earlier_is_taken():
    assert choose_best([check(0.5), check(0.5), check(0.5)], 2) == [0, 1]


def test_the_real_reader_reads_a_drawn_word(drawing, reader):
    from PIL import ImageDraw

    picture = Image.new("RGB", (512, 256), "white")
    font = drawing.load_font("LiberationSans-Bold.ttf", 72)
    ImageDraw.Draw(picture).text((60, 80), "HARBOUR", "black", font)
    found = check_text(picture, "A sign 'HARBOUR' 'closed'", reader)
    assert (found.found, found.missing) == (("HARBOUR",), ("closed",))
