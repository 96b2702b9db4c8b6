"""Pictures that are read before they are handed out, and the best of several."""

import io

import numpy as np
import pytest
from PIL import Image

from glmimage.evaluation.reading import Line
from glmimage.types import image_seed


class Reader:
    """Read "OPEN" in the pictures whose turn it is, and nothing in the others."""

    turns: set
    num_read: int

    def read(self, picture):
        Reader.num_read += 1
        return (Line("OPEN", (0, 0, 9, 9)),) if Reader.num_read in Reader.turns else ()


@pytest.fixture
def reads(monkeypatch):
    """Return a function that says which of the next pictures are legible, counted from 1."""
    monkeypatch.setattr("glmimage.evaluation.reading.Reader", Reader)

    def legible(*turns):
        Reader.turns, Reader.num_read = set(turns), 0

    return legible


def picture(service, job):
    (image,) = job.result["images"]
    return np.asarray(Image.open(io.BytesIO(service.file(image["file_id"]))))


def test_the_result_tells_what_was_read(service, reads):
    reads(2)
    job = service.wait(service.submit(num_images=2, input={"text_check": True, "num_images": 2}))
    checks = job.result["text_check"]
    assert [check["seed"] for check in checks] == [7, image_seed(7, 1)]
    # which picture is painted first is the engine's affair
    words = sorted((check["accuracy"], check["found"], check["missing"]) for check in checks)
    assert words == [(0.0, [], ["OPEN"]), (1.0, ["OPEN"], [])]


def test_without_asking_nothing_is_read(service, reads):
    reads()
    job = service.wait(service.submit())
    assert "text_check" not in job.result
    assert Reader.num_read == 0


def test_the_best_is_the_picture_of_its_own_seed(service, reads):
    chosen = set()
    for turn in (1, 2):
        reads(turn)
        job = service.wait(service.submit(num_images=2, input={"best_of": 2, "num_images": 1}))
        (check,) = job.result["text_check"]
        assert (check["found"], check["num_candidates"]) == (["OPEN"], 2)
        chosen.add(check["seed"])
    assert chosen == {7, image_seed(7, 1)}
    alone = service.wait(service.submit(seed=check["seed"]))
    assert np.array_equal(picture(service, job), picture(service, alone))
    assert len([f for f in service("files_of", job.id) if f.kind == "output"]) == 1
    # all that are painted are charged
    (event,) = service("billing_events", job_id=job.id)
    assert event.megapixels == 2 * 512 * 512 / 1e6


def test_a_black_picture_is_never_the_best(service, reads, judge):
    reads(1, 2)
    judge.score_of_next = 1.0
    try:
        job = service.wait(service.submit(input={"text_check": True}))
    finally:
        judge.score_of_next = 0.0
    assert job.result["images"][0]["nsfw"] is True


def test_a_worker_that_cannot_read_says_so_before_it_paints(service, monkeypatch):
    from glmimage.errors import GlmImageError
    from glmimage.worker.link import StoreLink

    def missing(link):
        raise GlmImageError("Pictures cannot be read: no reader.", hint="Install it.")

    monkeypatch.setattr(StoreLink, "load_reader", missing)
    job = service.wait(service.submit(input={"text_check": True}))
    assert (job.state, job.status) == ("failed", 422)
    (entry,) = job.result["detail"]
    assert entry["loc"] == ["body", "text_check"]
    assert entry["msg"] == "Pictures cannot be read: no reader. Install it."


@pytest.mark.parametrize(("kind", "quality"), [("webp", None), ("jpeg", 30)])
def test_other_encodings(service, kind, quality):
    encoding = {"format": kind, "quality": quality}
    job = service.wait(service.submit(input={"encoding": encoding}))
    (image,) = job.result["images"]
    content = service.file(image["file_id"])
    assert image["content_type"] == f"image/{kind}"
    assert Image.open(io.BytesIO(content)).format == kind.upper()


def test_tokens_are_counted(service):
    one = service.wait(service.submit()).result["tokens"]
    two = service.wait(service.submit(num_images=2, seed=9)).result["tokens"]
    # a small grid of 16 x 16 and a large one of 16 x 16
    assert (one["output"], two["output"]) == (512, 1024)
    assert one["text"] == two["text"] > 5
    assert one["image"] == 0
