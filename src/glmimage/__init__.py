"""GLM-Image on your own machine: a prompt becomes a picture in which the text is right."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        Aborted,
        CheckpointInvalid,
        DownloadFailed,
        GlmImageError,
        InvalidDataset,
        InvalidImage,
        InvalidLora,
        InvalidPrompt,
        InvalidRequest,
        InvalidSettings,
        InvalidSize,
        ModelError,
        ModelNotFound,
        OutOfMemory,
        OutputError,
    )
    from .lora import Lora
    from .pipeline import Pipeline
    from .types import (
        SIZE_PRESETS,
        DenoiseStep,
        Event,
        Failed,
        GenerationRequest,
        GenerationResult,
        PictureReady,
        PriorProgress,
        PriorReady,
        Queued,
        SmallGridReady,
    )

__version__ = "0.1.0"

# name -> module, so that `import glmimage` costs nothing and only Pipeline brings torch
_HOMES = {
    **dict.fromkeys(
        (
            "Aborted",
            "CheckpointInvalid",
            "DownloadFailed",
            "GlmImageError",
            "InvalidDataset",
            "InvalidImage",
            "InvalidLora",
            "InvalidPrompt",
            "InvalidRequest",
            "InvalidSettings",
            "InvalidSize",
            "ModelError",
            "ModelNotFound",
            "OutOfMemory",
            "OutputError",
        ),
        "errors",
    ),
    **dict.fromkeys(
        (
            "SIZE_PRESETS",
            "DenoiseStep",
            "Event",
            "Failed",
            "GenerationRequest",
            "GenerationResult",
            "PictureReady",
            "PriorProgress",
            "PriorReady",
            "Queued",
            "SmallGridReady",
        ),
        "types",
    ),
    "Lora": "lora",
    "Pipeline": "pipeline",
}

__all__ = [
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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
