"""Edits whose truth is known: made and kept, not made, and made at the cost of the rest."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from glmimage.evaluation.judge import judge
from glmimage.evaluation.rows import Asked, Change, Region, Row

NAVY, WHITE, RED = (16, 32, 84), (255, 255, 255), (220, 30, 40)


class Both:
    """Read the source or the result, whichever it is given."""

    def __init__(self, result, source, picture):
        self.result, self.source, self.picture = result, source, picture

    def read(self, picture):
        return (self.source if picture is self.picture else self.result).read(picture)


@pytest.fixture
def before(drawing):
    text = drawing.Text("OPEN", 0.5, 0.5, 0.13, WHITE)
    return drawing.Design(512, 512, NAVY, texts=(text,))


@pytest.fixture
def verdict(drawing, knows, before):
    """Judge `after` as the answer to a change of `before`: (made, kept)."""

    def of(after, change, asked=None, text="OPEN", effect=None):
        change = replace(change, boxes=(drawing.text_box(before, 0),))
        row = Row("e", "p", (text,), 1, 512, 512, asked or Asked(), kind="k", change=change)
        picture = drawing.draw(after)
        picture = effect(picture) if effect else picture
        source = drawing.draw(before)
        reader = knows(after)
        if change.grown:  # the source is read too
            reader = Both(knows(after), knows(before), source)
        values = judge(picture, row, reader, [source]).values
        assert values["edit"] == [values["edit_made"][0] * values["edit_kept"][0]]
        return values["edit_made"][0], values["edit_kept"][0]

    return of


def with_text(design, **changes):
    return replace(design, texts=(replace(design.texts[0], **changes),))


def test_replaced_text(verdict, before):
    change = Change(gone=("OPEN",), keep=("background", "text_color", "positions"))
    after = with_text(before, text="CLOSED")
    assert verdict(after, change, text="CLOSED") == (1, 1)
    assert verdict(before, change, text="CLOSED")[0] == 0
    assert verdict(replace(after, background=RED), change, text="CLOSED") == (1, 0)
    assert verdict(with_text(after, y=0.85), change, text="CLOSED") == (1, 0)


def test_new_background(verdict, before):
    change, asked = Change(keep=("texts", "text_color", "positions")), Asked(background="red")
    after = replace(before, background=RED)
    assert verdict(after, change, asked) == (1, 1)
    assert verdict(before, change, asked) == (0, 1)
    assert verdict(with_text(after, text="CLOSED"), change, asked) == (1, 0)
    assert verdict(with_text(after, color=(17, 17, 17)), change, asked) == (1, 0)


def test_new_text_colour(verdict, before):
    change, asked = Change(keep=("texts", "background", "positions")), Asked(text_color="yellow")
    after = with_text(before, color=(250, 210, 50))
    assert verdict(after, change, asked) == (1, 1)
    assert verdict(before, change, asked) == (0, 1)
    assert verdict(replace(after, background=RED), change, asked) == (1, 0)


def test_moved_and_enlarged_text(verdict, before):
    change, asked = Change(keep=("texts", "background")), Asked(positions=("top",))
    assert verdict(with_text(before, y=0.15), change, asked) == (1, 1)
    assert verdict(before, change, asked) == (0, 1)
    change = Change(grown=True, keep=("texts", "background"))
    assert verdict(with_text(before, size=0.2), change) == (1, 1)
    assert verdict(with_text(before, size=0.14), change) == (0, 1)


@pytest.mark.parametrize("kind", ["frame", "shape"])
def test_added_frame_and_shape(drawing, verdict, before, kind):
    change = Change(added=(kind, "red"), keep=("texts", "background", "positions"))
    box = (0.0, 0.0, 1.0, 1.0) if kind == "frame" else (0.4, 0.7, 0.6, 0.9)
    shape = drawing.Shape("frame" if kind == "frame" else "circle", box, RED)
    assert verdict(replace(before, shapes=(shape,)), change) == (1, 1)
    assert verdict(before, change) == (0, 1)
    blue = replace(shape, color=(60, 120, 240))
    assert verdict(replace(before, shapes=(blue,)), change) == (0, 1)


def sepia(picture):
    return ImageOps.colorize(picture.convert("L"), (40, 26, 13), (255, 240, 200))


def blueprint(picture):
    return ImageOps.colorize(picture.convert("L"), (24, 72, 160), WHITE)


def pixel(picture):
    return picture.resize((64, 64), Image.Resampling.BOX).resize(
        (512, 512), Image.Resampling.NEAREST
    )


def watercolour(picture):
    return picture.filter(ImageFilter.GaussianBlur(3))


EFFECTS = {
    "inverted": ImageOps.invert,
    "sepia": sepia,
    "blueprint": blueprint,
    "pixel": pixel,
    "watercolour": watercolour,
    "grayscale": lambda picture: picture.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_is_seen_and_its_absence_too(verdict, before, name):
    change = Change(effect=name, keep=("texts", "positions"))
    assert verdict(before, change, effect=EFFECTS[name]) == (1, 1)
    assert verdict(replace(before, background=RED), change) == (0, 1)


def test_the_palette_of_the_second_source(drawing, knows, before):
    other = replace(with_text(before, color=(250, 210, 50)), background=(110, 40, 150))
    change = Change(palette_of=1, keep=("texts",), boxes=(drawing.text_box(before, 0),))
    row = Row("e", "p", ("OPEN",), 1, 512, 512, change=change)
    sources = [drawing.draw(before), drawing.draw(other)]
    judged = [judge(one, row, knows(before), sources).values["edit"] for one in sources]
    assert judged == [[0], [1]]


def test_regions_change_and_stay():
    source = np.full((512, 512, 3), 230, np.uint8)
    source[300:] = (120, 80, 50)
    source[200:300, 200:300] = RED
    left, right = (0.42, 0.42, 0.55, 0.55), (0.1, 0.7, 0.9, 0.9)
    change = Change(
        regions=(Region(left, "blue"),), kept_regions=(Region(right),), keep=("regions",)
    )
    row = Row("e", "p", (), 1, 512, 512, change=change)
    made = source.copy()
    made[200:300, 200:300] = (30, 90, 210)
    spoilt = made.copy()
    spoilt[300:] = 0

    class Blind:
        def read(self, picture):
            return ()

    def of(pixels):
        values = judge(Image.fromarray(pixels), row, Blind(), [Image.fromarray(source)]).values
        return values["edit_made"][0], values["edit_kept"][0]

    assert [of(pixels) for pixels in (made, source, spoilt)] == [(1, 1), (0, 1), (1, 0)]
