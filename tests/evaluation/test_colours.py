import numpy as np
import pytest

from glmimage.evaluation.colours import (
    NEIGHBOURS,
    PALETTE,
    SYNONYMS,
    background_colours,
    colour_mask,
    is_colour,
    name_colour,
    plain_name,
    text_colour,
    to_lab,
)
from glmimage.evaluation.reading import Line


def lab_of(code):
    return to_lab(np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]))


def test_lab_of_known_colours():
    # values of the CIE standard illuminant D65
    assert lab_of("#ffffff") == pytest.approx([100, 0, 0], abs=0.1)
    assert lab_of("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    assert lab_of("#0000ff") == pytest.approx([32.30, 79.19, -107.86], abs=0.1)


def test_every_patch_has_its_own_name():
    for name, codes in PALETTE.items():
        assert {name_colour(lab_of(code)) for code in codes} == {name}


def test_synonyms_and_neighbours_name_colours_that_exist():
    assert set(SYNONYMS.values()) <= set(PALETTE)
    assert set(NEIGHBOURS) <= set(PALETTE) and set().union(*NEIGHBOURS.values()) <= set(PALETTE)
    assert plain_name(" Dark  Blue ") == "navy" and plain_name("blurple") is None


@pytest.mark.parametrize(
    ("code", "yes", "no"),
    [
        ("#102054", ["navy", "dark blue", "blue"], ["black", "purple", "sky blue"]),
        ("#f5f5dc", ["cream", "beige"], ["yellow", "white"]),
        ("#d01c24", ["red", "crimson"], ["orange", "maroon", "pink"]),
        ("#7a1f2a", ["burgundy", "red"], ["brown", "purple"]),
    ],
)
def test_a_colour_word_means_some_colours_and_not_others(code, yes, no):
    assert [word for word in yes + no if is_colour(lab_of(code), word)] == yes


def test_a_frame_and_a_large_line_do_not_hide_the_background():
    picture = np.full((100, 100, 3), (16, 32, 84), np.uint8)
    picture[:5] = picture[-5:] = (255, 0, 0)
    picture[:, :5] = picture[:, -5:] = (255, 0, 0)
    picture[30:70, 10:90] = 255
    border, whole = background_colours(to_lab(picture), [Line("x", (10, 30, 90, 70))])
    assert (name_colour(border), name_colour(whole)) == ("red", "navy")


def test_type_has_the_colour_of_its_ink_not_of_its_edges():
    picture = np.full((40, 60, 3), 255, np.uint8)
    picture[10:30, 10:14] = picture[10:30, 30:34] = (250, 120, 20)
    picture[10:30, 14:16] = (252, 190, 140)
    ink = text_colour(to_lab(picture), [Line("ll", (5, 5, 55, 35))])
    assert name_colour(ink) == "orange"


def test_an_empty_box_has_no_ink():
    assert text_colour(np.full((40, 60, 3), 50.0), [Line("ll", (5, 5, 55, 35))]) is None
    assert text_colour(np.full((40, 60, 3), 50.0), []) is None


def test_a_mask_is_where_the_colour_is():
    picture = np.full((10, 10, 3), 255, np.uint8)
    picture[2:4, 3:7] = (0, 128, 0)
    mask = colour_mask(to_lab(picture), "green")
    assert mask.sum() == 8 and mask[2:4, 3:7].all()
