"""The picture checker: its threshold, and the classifier on pictures it must not flag."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glmimage.errors import InvalidSettings
from glmimage.policy import PictureChecker, black_like
from glmimage.policy.picture_check import OpenNsfw


class Fixed:
    """Give every picture the same score."""

    def __init__(self, score):
        self.value = score

    def score(self, image):
        return self.value


@pytest.mark.parametrize(
    ("score", "threshold", "flagged"),
    [(0.0, 0.5, False), (0.49, 0.5, False), (0.5, 0.5, True), (1.0, 1.0, True), (0.3, 0.2, True)],
)
def test_the_threshold_decides(score, threshold, flagged):
    checker = PictureChecker(threshold, Fixed(score))
    verdict = checker.check(Image.new("RGB", (64, 64)))
    assert (verdict.score, verdict.flagged) == (score, flagged)
    assert (checker.num_checked, checker.num_flagged) == (1, int(flagged))


def test_what_is_loaded_ahead_counts_as_no_picture():
    checker = PictureChecker(0.5, Fixed(1.0))
    checker.load()
    assert (checker.num_checked, checker.num_flagged) == (0, 0)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01])
def test_a_senseless_threshold_is_refused(threshold):
    with pytest.raises(InvalidSettings, match="threshold"):
        PictureChecker(threshold)


def poster(mode="RGB", size=(512, 288)):
    image = Image.new("RGB", size, "#f4d35e")
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 200, 120), fill="#0d3b66")
    draw.text((240, 100), "OPEN TODAY", fill="black")
    return image.convert(mode)


def gradient(size=(300, 700)):
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.fixture(scope="module")
def classifier():
    return OpenNsfw()


@pytest.mark.parametrize(
    "image",
    [poster(), poster("L"), poster("RGBA"), poster("P"), gradient(), Image.new("RGB", (512, 512))],
    ids=["poster", "grey", "alpha", "palette", "gradient", "black"],
)
def test_harmless_pictures_pass(classifier, image):
    verdict = PictureChecker(classifier=classifier).check(image)
    assert 0.0 <= verdict.score < 0.5
    assert not verdict.flagged


def test_the_weights_are_alive(classifier):
    """Different pictures get different scores, the same one the same."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    skin = Image.new("RGB", (256, 256), "#e0ac8a")
    scores = [classifier.score(image) for image in (noise, skin, poster())]
    assert len(set(scores)) == 3
    assert classifier.score(skin) == scores[1]


def test_the_picture_is_not_changed(classifier):
    image = poster()
    before = image.tobytes()
    classifier.score(image)
    assert image.tobytes() == before


def test_black_keeps_the_size_and_nothing_else():
    image = poster()
    image.info["seed"] = 7
    black = black_like(image)
    assert (black.size, black.mode, black.info) == (image.size, "RGB", {})
    assert black.getextrema() == ((0, 0), (0, 0), (0, 0))
