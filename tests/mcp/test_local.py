"""Painting in this process: what is refused before a model is loaded."""

import asyncio
import threading

import pytest

from glmimage.config import Settings
from glmimage.errors import ModelNotFound
from glmimage.mcp.local import LocalPainter
from glmimage.mcp.painter import Listed, PaintingFailed, Wish

WISH = {
    "prompt": "A sign 'OPEN'",
    "width": 512,
    "height": 512,
    "num_inference_steps": 10,
    "guidance_scale": 1.5,
    "seed": 7,
    "num_images": 1,
    "output_format": "jpeg",
    "text_check": False,
    "best_of": 1,
}


def paint(tmp_path, load, **changes):
    """Submit a wish and return what became of it."""

    async def run():
        painter = LocalPainter(Settings(data_dir=tmp_path), load)
        try:
            request_id = await painter.submit(Wish(**WISH | changes))
            async for _ in painter.follow(request_id):
                pass
            return await painter.result(request_id), await painter.recent(5)
        finally:
            await painter.close()

    return asyncio.run(run())


def never():
    raise AssertionError("the model must not be loaded")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"width": 100}, "width is 100 px"),
        ({"best_of": 2, "num_images": 3}, "as many or more"),
        ({"best_of": 2, "prompt": "A hill"}, "no words in quotes"),
        ({"images": ("data:image/png;base64,AAAA",)}, "is not a picture"),
        ({"images": ("http://127.0.0.1:1/a.png",)}, "127.0.0.1"),
    ],
)
def test_a_wrong_wish_is_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(PaintingFailed, match=sentence):
        paint(tmp_path, never, **changes)


def test_a_model_that_cannot_be_loaded_fails_the_request(tmp_path):
    def load():
        raise ModelNotFound("There is no model 'x'.", hint="Name another.")

    painted, recent = paint(tmp_path, load)
    assert (painted.state, painted.error) == ("failed", "There is no model 'x'. Name another.")
    assert recent == [Listed(painted.id, "A sign 'OPEN'", "failed")]


def test_a_request_is_listed_as_soon_as_it_is_submitted(tmp_path):
    async def run():
        loading = threading.Event()

        def load():
            loading.wait(60)
            raise ModelNotFound("There is no model 'x'.")

        painter = LocalPainter(Settings(data_dir=tmp_path), load)
        try:
            ids = [await painter.submit(Wish(**WISH)) for _ in range(2)]
            states = [(one.request_id, one.state) for one in await painter.recent(5)]
            assert states == [(ids[1], "waiting"), (ids[0], "waiting")]
            loading.set()
            async for _ in painter.follow(ids[1]):
                pass
            assert [one.state for one in await painter.recent(1)] == ["failed"]
        finally:
            loading.set()
            await painter.close()

    asyncio.run(run())


def test_the_model_is_loaded_as_the_settings_say(monkeypatch, tiny_dir):
    from glmimage.cli import run
    from glmimage.pipeline import Pipeline

    asked = {}

    def load(*arguments, **options):
        asked.update(options)
        raise ModelNotFound("It is enough to be asked.")

    def serve(painter, version):
        async def paint():
            async for _ in painter.follow(await painter.submit(Wish(**WISH))):
                pass
            await painter.close()

        asyncio.run(paint())

    monkeypatch.setattr(Pipeline, "load", load)
    monkeypatch.setattr("glmimage.mcp.serving.serve_stdio", serve)
    monkeypatch.setenv("GLMIMAGE_LOSSY", "weights=int8")
    monkeypatch.setenv("GLMIMAGE_FAST", "compile")
    assert run(["mcp", "--in-process", "--model", str(tiny_dir), "--device", "cpu"]) == 0
    assert (asked["lossy"], asked["fast"]) == ("weights=int8", "compile")
    assert (asked["device"], asked["memory"]) == ("cpu", "auto")


def test_without_the_sdk(monkeypatch, capsys):
    from glmimage.cli import run

    monkeypatch.setitem(__import__("sys").modules, "glmimage.mcp.serving", None)
    assert run(["mcp", "--in-process"]) == 2
    assert "pip install 'glmimage[mcp]'" in capsys.readouterr().err
