"""One tree of failures, with codes that programs may rely on."""

import pickle

import pytest

from glmimage import errors
from glmimage.errors import GlmImageError, InvalidPrompt, InvalidRequest

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GlmImageError)
]


def test_codes_are_pinned():
    assert {kind.__name__: kind.code for kind in KINDS} == {
        "GlmImageError": "internal_error",
        "InvalidRequest": "invalid_request",
        "InvalidPrompt": "invalid_prompt",
        "InvalidSize": "invalid_size",
        "InvalidImage": "invalid_image",
        "InvalidLora": "invalid_lora",
        "InvalidDataset": "invalid_dataset",
        "InvalidSettings": "invalid_settings",
        "ModelError": "model_error",
        "ModelNotFound": "model_not_found",
        "CheckpointInvalid": "checkpoint_invalid",
        "DownloadFailed": "download_failed",
        "ServerNotFound": "server_not_found",
        "OutputError": "output_error",
        "OutOfMemory": "out_of_memory",
        "Aborted": "aborted",
    }


def test_the_tree_in_the_module_names_every_kind():
    for kind in KINDS:
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_process_borders(kind):
    error = pickle.loads(pickle.dumps(kind("Something is wrong.", hint="Mend it.")))
    assert type(error) is kind
    assert (str(error), error.hint) == ("Something is wrong.", "Mend it.")


def test_the_wrong_field_survives_pickling():
    error = pickle.loads(pickle.dumps(InvalidRequest("seed is -1.", field="seed")))
    assert error.field == "seed"
    assert InvalidPrompt("The prompt is empty.").field == "prompt"
