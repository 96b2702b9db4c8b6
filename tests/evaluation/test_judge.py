"""The judge against posters whose truth is known: right is right, and wrong is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from glmimage.evaluation.judge import judge
from glmimage.evaluation.lettering import FAMILIES, WEIGHTS
from glmimage.evaluation.rows import Asked, Row

ASKED = Asked(
    background="navy",
    text_color="yellow",
    positions=("top", "bottom"),
    alignment="left",
    style="serif",
    weight="bold",
)
ROW = Row("a", "A poster", ("Quiet Rivers", "May 14"), 5, 512, 512, ASKED)


def wrong(verdict):
    names = set(verdict.values) - {"no_extra_words"}
    return {name for name in names if min(verdict.values[name]) < 1}


def test_a_poster_as_asked_is_right_in_everything(judged):
    verdict = judged(ROW, ROW)
    assert not wrong(verdict)
    assert verdict.values["position"] == [1, 1]


@pytest.mark.parametrize(
    ("wish", "measure"),
    [
        ({"background": "teal"}, "background"),
        ({"background": "black"}, "background"),
        ({"text_color": "white"}, "text_color"),
        ({"text_color": "orange"}, "text_color"),
        ({"positions": ("middle", "bottom")}, "position"),
        ({"positions": ("top", "middle")}, "position"),
        ({"alignment": "center"}, "alignment"),
        ({"alignment": "right"}, "alignment"),
        ({"style": "sans"}, "style"),
        ({"style": "mono"}, "style"),
        ({"weight": "regular"}, "weight"),
    ],
)
def test_what_is_not_as_asked_is_wrong_and_nothing_else(judged, wish, measure):
    assert wrong(judged(ROW, replace(ROW, asked=replace(ASKED, **wish)))) == {measure}


def test_other_words_are_wrong(judged):
    verdict = judged(ROW, replace(ROW, texts=("Quiet Rivers", "June 2"), asked=Asked()))
    assert verdict.values["word_accuracy"] == [1, 1, 0, 0]
    assert verdict.values["whole_strings"] == [1, 0]


def test_an_empty_picture_obeys_nothing_but_its_background(reader):
    verdict = judge(Image.new("RGB", (512, 512), (16, 32, 84)), ROW, reader)
    assert verdict.read == [] and set(verdict.values["word_accuracy"]) == {0}
    assert verdict.values["background"] == [1] and verdict.values["position"] == [0, 0]
    for name in ("text_color", "alignment", "style", "weight"):
        assert verdict.values[name] == [0]


def test_what_is_not_asked_for_is_not_judged(judged):
    verdict = judged(ROW, replace(ROW, asked=Asked()))
    assert set(verdict.values) == {"word_accuracy", "ned", "whole_strings", "no_extra_words"}


def test_a_gradient_is_judged_by_its_ends(judged):
    faded = replace(ROW, asked=Asked(gradient=("purple", "orange")))
    assert judged(faded, faded).values["gradient"] == [1]
    turned = replace(ROW, asked=Asked(gradient=("orange", "purple")))
    assert judged(faded, turned).values["gradient"] == [1]
    other = replace(ROW, asked=Asked(gradient=("purple", "teal")))
    assert judged(faded, other).values["gradient"] == [0]


@pytest.mark.parametrize("style", FAMILIES)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("text", ["Bakery", "WILLOW 37", "till midnight"])
def test_family_and_weight_are_told_apart(judged, style, weight, text):
    for seed in (1, 2, 3):  # either typeface of a family
        row = Row("a", "p", (text,), seed, 512, 512, Asked(style=style, weight=weight))
        assert judged(row, row).measured["lettering"] == (style, weight)


def test_a_drawn_poster_is_read_and_judged(drawing, reader):
    for width, height in ((512, 512), (1024, 576)):
        row = replace(ROW, width=width, height=height)
        verdict = judge(drawing.draw(drawing.design_of(row)), row, reader)
        assert not wrong(verdict), verdict


def test_noise_obeys_nothing(reader):
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    verdict = judge(Image.fromarray(pixels), ROW, reader)
    assert max(verdict.values["word_accuracy"] + verdict.values["background"]) == 0
