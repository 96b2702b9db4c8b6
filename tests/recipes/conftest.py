from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "nano"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.fixture
def codebook():
    from renderer import BackgroundCodebook
    from training import CODEBOOK

    return BackgroundCodebook.load(CODEBOOK)


@pytest.fixture
def fonts():
    from renderer import find_font

    try:
        find_font("LiberationSans-Bold.ttf")
        find_font("DejaVuSerif.ttf")
    except SystemExit as missing:
        pytest.skip(str(missing))
