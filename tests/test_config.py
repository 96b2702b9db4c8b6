"""A deployment that is set up wrongly does not start."""

import pytest

from glmimage.config import Settings, load_settings
from glmimage.errors import InvalidSettings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GLMIMAGE_{name.upper()}", raising=False)


def test_defaults():
    settings = load_settings()
    assert (settings.model, settings.device, settings.dtype) == ("nano", "auto", "auto")
    assert (settings.memory, settings.offline, settings.cache_dir) == ("auto", False, None)
    assert settings.hub_environment() == {}


def test_the_environment_is_read_and_an_option_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("GLMIMAGE_MODEL", "some/model")
    monkeypatch.setenv("GLMIMAGE_DEVICE", "cuda:1")
    monkeypatch.setenv("GLMIMAGE_OFFLINE", "1")
    monkeypatch.setenv("GLMIMAGE_CACHE_DIR", str(tmp_path))
    settings = load_settings(model=None, device="cpu")
    assert (settings.model, settings.device) == ("some/model", "cpu")
    assert settings.hub_environment() == {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("GLMIMAGE_DEVICE", "tpu", "'tpu'"),
        ("GLMIMAGE_DEVICE", "cuda:x", "cuda:N"),
        ("GLMIMAGE_DEVICE", "cpu:", "cuda:N"),
        ("GLMIMAGE_DTYPE", "int4", "bfloat16"),
        ("GLMIMAGE_MEMORY", "lots", "staged"),
        ("GLMIMAGE_OFFLINE", "perhaps", "perhaps"),
        ("GLMIMAGE_MODEL", "  ", "name a model"),
        ("GLMIMAGE_DEVCE", "cuda", "GLMIMAGE_DEVICE"),
        ("GLMIMAGE_HTTP_PORT", "70000", "less than or equal to 65535"),
        ("GLMIMAGE_PUBLIC_URL", "pictures.example.org", "https://"),
        ("GLMIMAGE_FILES_ACCESS", "bucket", "GLMIMAGE_FILES_URL=s3://"),
        ("GLMIMAGE_FILES_ACCESS", "straight", "'gateway' or 'bucket'"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, variable, value, says):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=variable) as caught:
        load_settings()
    assert says in str(caught.value) + caught.value.hint


def test_a_wrong_option_is_named_as_an_option():
    with pytest.raises(InvalidSettings, match="--dtype is 'int4'"):
        load_settings(dtype="int4")


def test_the_data_folder_is_the_same_wherever_a_command_is_started(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert load_settings().data_dir == tmp_path / "glmimage"
    monkeypatch.chdir(tmp_path)
    assert load_settings(data_dir="here").data_dir == tmp_path / "here"
    monkeypatch.setenv("GLMIMAGE_DATA_DIR", "~/there")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().data_dir == tmp_path / "there"
