"""What the painter makes known, and when; the engine is real, the store's half writes a list."""

from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glmimage.engine.engine import Engine
from glmimage.pipeline import decode
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PictureReady
from glmimage.worker import painter as painter_module
from glmimage.worker.link import Begin
from glmimage.worker.outcome import Preview
from glmimage.worker.painter import Painter

STEPS = 9


class List:
    """Write down what the painter tells, in order."""

    def __init__(self):
        self.told = []
        self.report = SimpleNamespace(take=lambda figures: None)

    def tell(self, job_id, message, fraction):
        if "step" in message:
            self.told.append(message)

    def send(self, job_id, item):
        if isinstance(item, Preview | PictureReady):
            self.told.append(item)


@pytest.fixture(scope="module")
def stages(tiny_dir):
    return Stages.load(str(tiny_dir), "cpu", "float32")


def paint(stages, spoil=None, **request):
    """Paint with three previews; return what was told, in order."""
    link = List()
    painter = Painter(Engine(stages), link)
    if spoil is not None:
        painter.engine.preview = spoil(painter.engine.preview)
    job = SimpleNamespace(id="j", input={"preview": 3})
    asked = GenerationRequest("A sign 'OPEN'", 512, 512, STEPS, seed=3, **request)
    painter.begin(Begin(SimpleNamespace(job=job), asked, ()))
    while painter.in_hand:
        painter.step()
    return link.told


def order(told):
    return [
        f"preview {one.number}" if isinstance(one, Preview) else one
        for one in told
        if not isinstance(one, PictureReady)
    ]


def steps(first, last):
    return [f"step {step}/{STEPS}" for step in range(first, last + 1)]


def test_the_first_comes_before_painting_the_others_after_a_third_and_two(stages):
    told = paint(stages)
    expected = ["preview 0", *steps(1, 2), "preview 1", *steps(3, 5), "preview 2", *steps(6, 9)]
    assert order(told) == expected  # the line of a step is written when its previews are made
    made = np.asarray(told[-1].image, float)
    shown = [np.asarray(one.image, float) for one in told if isinstance(one, Preview)]
    assert shown[0].shape == (256, 256, 3)
    assert np.abs(shown[1] - made).mean() > np.abs(shown[2] - made).mean() > 0


def test_an_edit_is_first_seen_after_its_first_step(stages):
    """Its tokens alone would know nothing of the reference."""
    told = paint(stages, source_images=(Image.linear_gradient("L").convert("RGB"),))
    assert order(told)[:3] == ["preview 0", "step 1/9", "step 2/9"]


def test_each_picture_has_its_own(stages):
    told = paint(stages, num_images=2)
    found = [(one.image_index, one.number) for one in told if isinstance(one, Preview)]
    assert sorted(found) == [(index, number) for index in range(2) for number in range(3)]


def test_one_that_fails_is_left_out_and_one_that_cannot_be_comes_later(stages, log):
    log.set_up()

    def fail_once(preview):
        left = [RuntimeError("no memory")]

        def spoilt(event):
            if left:
                raise left.pop()
            return preview(event)

        return spoilt

    assert "preview 0" not in order(paint(stages, spoil=fail_once))
    assert [line["request_id"] for line in log.lines] == ["j"]

    def without_the_decoder(preview):
        return lambda event: preview(event) if hasattr(event, "step") else None

    told = order(paint(stages, spoil=without_the_decoder))
    assert told[:3] == ["preview 0", "step 1/9", "step 2/9"]


class Clock:
    """Stand in for the module `time`; it goes as a test says."""

    def __init__(self):
        self.now = 100.0
        self.time = self.monotonic

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("num_images", [1, 3])
def test_who_only_writes_priors_knows_how_long_they_take(stages, monkeypatch, num_images):
    """From the pace of their tokens; otherwise each would be handed back when a worker stops."""
    clock = Clock()
    monkeypatch.setattr("glmimage.worker.painter.time", clock)
    # a round a step: how many fit into a moment depends on what else the machine does
    monkeypatch.setattr("glmimage.engine.scheduler.PRIOR_STEP_S", 0.0)
    painter = Painter(Engine(stages, paints=False), List(), paints=False)
    job = SimpleNamespace(id="j", input={})
    request = GenerationRequest("A sign", 512, 512, 2, seed=3, num_images=num_images)
    painter.begin(Begin(SimpleNamespace(job=job), request, ()))
    assert painter.seconds_left("j") == inf
    estimates = []
    while True:
        clock.now += 1.0
        painter.step()
        if "j" not in painter.in_hand:
            break
        estimates.append((clock.now, painter.seconds_left("j")))
    known = [(now, left) for now, left in estimates if left < inf]
    assert len(known) > len(estimates) / 2
    for now, left in known[len(known) // 2 :]:
        assert abs(now + left - clock.now) < 0.25 * (clock.now - 100), (now, left)
    assert known[-1][1] < 0.2 * (clock.now - 100)


def test_what_a_step_expects_is_where_its_velocity_leads(stages):
    """After the last step nothing is left to guess: the picture itself, to the last bit."""
    from glmimage import pipeline
    from glmimage.picture import make_pictures

    (picture,) = make_pictures("0", GenerationRequest("A sign", 512, 512, 2, seed=3))
    for event in pipeline.generate(stages, [picture]):
        if isinstance(event, PictureReady):
            made = np.asarray(event.image)
    (again,) = decode(stages.decode(), picture.expected[None])
    assert np.array_equal(np.asarray(again), made)


@pytest.mark.parametrize(("every_s", "reports"), [(0.0, range(STEPS, 10_000)), (1e6, range(1, 2))])
def test_the_engines_figures_are_passed_on_now_and_then_and_at_the_end(
    stages, monkeypatch, every_s, reports
):
    """All of them either way; at every step they would slow the painting."""
    monkeypatch.setattr(painter_module, "REPORT_S", every_s)
    taken, told = [], List()
    told.report.take = taken.append
    painter = Painter(Engine(stages), told)
    job = SimpleNamespace(id="j", input={})
    asked = GenerationRequest("A sign 'OPEN'", 512, 512, STEPS, seed=3)
    painter.begin(Begin(SimpleNamespace(job=job), asked, ()))
    while painter.in_hand:
        painter.step()
    assert len(taken) in reports
    steps = sum(size * times for figures in taken for size, times in figures.pictures.items())
    assert steps == STEPS
