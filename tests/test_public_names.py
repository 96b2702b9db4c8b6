"""The public names are a promise: adding or removing one is a decision, not an accident."""

import glmimage

PUBLIC_NAMES = [
    "SIZE_PRESETS",
    "Aborted",
    "CheckpointInvalid",
    "DenoiseStep",
    "DownloadFailed",
    "Event",
    "Failed",
    "GenerationRequest",
    "GenerationResult",
    "GlmImageError",
    "InvalidDataset",
    "InvalidImage",
    "InvalidLora",
    "InvalidPrompt",
    "InvalidRequest",
    "InvalidSettings",
    "InvalidSize",
    "Lora",
    "ModelError",
    "ModelNotFound",
    "OutOfMemory",
    "OutputError",
    "PictureReady",
    "Pipeline",
    "PriorProgress",
    "PriorReady",
    "Queued",
    "SmallGridReady",
]


def test_names_are_pinned_and_each_leads_somewhere():
    assert glmimage.__all__ == PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        assert getattr(glmimage, name) is not None
    assert {name for name in dir(glmimage) if name != "__version__"} == set(PUBLIC_NAMES)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(glmimage, "pipelines")
