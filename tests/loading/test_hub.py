"""Naming a model: the package's own, a folder, or a Hugging Face id; downloads that fail."""

import errno
import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from glmimage.errors import DownloadFailed, ModelNotFound
from glmimage.loading import hub
from glmimage.loading.checkpoint import Checkpoint
from glmimage.loading.hub import DOWNLOADED, resolve_model
from glmimage.loading.tiny import make_tiny

MODEL = "someone/some-model"


@pytest.fixture
def answer(monkeypatch):
    """Let the hub answer with an exception or a folder; returns the list of its calls."""
    calls = []

    def prepare(outcome):
        def snapshot_download(*args, **options):
            calls.append((args, options))
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return prepare


def failing(kind, message="it failed"):
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def test_a_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert resolve_model(tmp_path) == tmp_path
    # a folder that exists wins over a repository of that name
    assert resolve_model("a/b").samefile(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/a") == tmp_path / "a"


def test_nano_is_in_the_package_or_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "NANO", tmp_path)
    with pytest.raises(ModelNotFound, match="nano model is not part of this installation"):
        resolve_model("nano")
    (tmp_path / "model_index.json").write_text("{}")
    assert resolve_model("nano") == tmp_path


@pytest.mark.parametrize(
    "name", ["", "nanoo", "/no/such/folder", "./here", "a/b/c", "a b/c", "owner/", "x" * 300]
)
def test_unknown_names(name):
    with pytest.raises(ModelNotFound) as caught:
        resolve_model(name)
    assert repr(name[:200]) in str(caught.value)
    assert "zai-org/GLM-Image" in caught.value.hint


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFound, match="is a file, not the folder"):
        resolve_model(tmp_path / "model.safetensors")


def test_only_what_is_needed_is_asked_for(answer, tmp_path):
    calls = answer(tmp_path)
    assert resolve_model(f"{MODEL}@v1.0", local_files_only=True) == tmp_path
    assert resolve_model(MODEL) == tmp_path
    (first, options), (_, without_revision) = calls
    assert first == (MODEL,)
    assert options["revision"] == "v1.0"
    assert options["local_files_only"] is True
    assert without_revision["revision"] is None
    assert without_revision["local_files_only"] is False


def test_what_is_asked_for_is_a_whole_checkpoint_and_no_more(tmp_path):
    tiny = make_tiny(tmp_path / "tiny")
    for extra in (
        "README.md",
        "transformer/pytorch_model.bin",
        "picture.png",
        "other/model.safetensors",
    ):
        (tiny / extra).parent.mkdir(exist_ok=True)
        (tiny / extra).touch()
    files = sorted(str(file.relative_to(tiny)) for file in tiny.rglob("*") if file.is_file())
    wanted = list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=DOWNLOADED))
    assert not {
        "README.md",
        "transformer/pytorch_model.bin",
        "picture.png",
        "other/model.safetensors",
    } & {*wanted}
    for file in wanted:
        (tmp_path / "copy" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny / file, tmp_path / "copy" / file)
    checkpoint = Checkpoint(tmp_path / "copy")
    checkpoint.load_prompt()
    checkpoint.load_glyph()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            failing(errors.RepositoryNotFoundError),
            ModelNotFound,
            "no public model someone/some-model",
        ),
        (failing(errors.GatedRepoError), ModelNotFound, "is gated"),
        (failing(errors.HFValidationError), ModelNotFound, "no public model"),
        (failing(errors.RevisionNotFoundError), ModelNotFound, "has no revision"),
        (failing(errors.LocalEntryNotFoundError), DownloadFailed, "Hugging Face cannot be reached"),
        (
            failing(errors.HfHubHTTPError, "503 Server Error\nmore"),
            DownloadFailed,
            "stopped: 503 Server Error",
        ),
        (ConnectionResetError("connection reset"), DownloadFailed, "stopped: connection reset"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DownloadFailed,
            "No space left on device",
        ),
        (TimeoutError(), DownloadFailed, "stopped: TimeoutError"),
        (RuntimeError("xet: data processing error"), DownloadFailed, "stopped: xet: data"),
    ],
)
def test_downloads_that_fail(answer, error, kind, said):
    answer(error)
    with pytest.raises(kind) as caught:
        resolve_model(MODEL)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_an_interrupted_download_goes_on(answer, tmp_path):
    answer(ConnectionResetError("connection reset"))
    with pytest.raises(DownloadFailed) as caught:
        resolve_model(MODEL)
    assert "complete files are not downloaded again" in caught.value.hint
    answer(tmp_path)
    assert resolve_model(MODEL) == tmp_path


def test_stopping_by_hand_is_not_an_error_of_the_download(monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve_model(MODEL)


def cached(cache, files):
    """Lay out a cache as an earlier download left it."""
    commit = "1" * 40
    folder = cache / f"models--{MODEL.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for file in files:
        (folder / "snapshots" / commit / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / file).write_text("{}")
    return folder / "snapshots" / commit


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Switch the real hub client offline, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_offline_uses_what_is_on_the_machine(offline):
    snapshot = cached(offline, ["model_index.json"])
    assert resolve_model(MODEL).samefile(snapshot)
    assert resolve_model(MODEL, local_files_only=True).samefile(snapshot)


def test_offline_without_the_model(offline):
    with pytest.raises(ModelNotFound, match="not on this machine, and downloads are switched off"):
        resolve_model(MODEL)


def test_local_files_only_without_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="downloads are switched off"):
        resolve_model(MODEL, local_files_only=True)


def test_no_network(monkeypatch, tmp_path):
    """The real client, against an address where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="Hugging Face cannot be reached"):
        resolve_model(MODEL)
