"""Where a model comes from: the package itself, a folder, or Hugging Face."""

import re
from pathlib import Path

from ..errors import DownloadFailed, ModelNotFound

NANO = Path(__file__).parents[1] / "checkpoints" / "nano"
PRIOR_FOLDER = "vision_language_encoder"
# component folder -> the class that model_index.json must name
LAYOUT = {
    PRIOR_FOLDER: "GlmImageForConditionalGeneration",
    "transformer": "GlmImageTransformer2DModel",
    "text_encoder": "T5EncoderModel",
    "tokenizer": "ByT5Tokenizer",
    "vae": "AutoencoderKL",
    "processor": "GlmImageProcessor",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
}
DOWNLOADED = ["model_index.json"] + [
    f"{folder}/{pattern}"
    for folder in LAYOUT
    for pattern in ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
]
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def resolve_model(name_or_path: str | Path, local_files_only: bool = False) -> Path:
    """Return the folder of "nano", of a path, or of owner/name[@revision] on Hugging Face.

    A download fetches only what is needed and no complete file twice, and is not made
    when HF_HUB_OFFLINE or local_files_only says so. Raises ModelNotFound or DownloadFailed.
    """
    if str(name_or_path) == "nano":
        if not (NANO / "model_index.json").is_file():
            raise ModelNotFound(
                "The nano model is not part of this installation.",
                hint="Reinstall glmimage, or give a folder or a Hugging Face id.",
            )
        return NANO
    path = Path(name_or_path).expanduser()
    try:
        found = str(name_or_path) != "" and path.exists()
    except (OSError, ValueError):  # too long, or with a null byte: nothing can be there
        found = False
    if found and path.is_dir():
        return path
    if found:
        raise ModelNotFound(
            f"{name_or_path} is a file, not the folder of a checkpoint.",
            hint="Give the folder with model_index.json in it.",
        )
    repository = _REPOSITORY.fullmatch(str(name_or_path))
    if repository is None:
        raise ModelNotFound(
            f"There is no model or folder {str(name_or_path)[:200]!r}.",
            hint="Give nano, the folder of a checkpoint, or a Hugging Face id such as "
            "zai-org/GLM-Image.",
        )
    return _download(repository[1], repository[2], local_files_only)


def _download(repository: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=DOWNLOADED,
            local_files_only=local_files_only,
        )
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"{repository} is gated on Hugging Face.",
            hint="Accept its terms on its page, then log in with `hf auth login`.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFound(
            f"There is no folder and no public model {repository} on Hugging Face.",
            hint="Check the spelling; a private model needs `hf auth login`.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{repository} has no revision {revision}.") from error
    except errors.LocalEntryNotFoundError as error:
        there = "only partly" if hasattr(error, "snapshot_path") else "not"
        if local_files_only or constants.HF_HUB_OFFLINE:
            raise ModelNotFound(
                f"{repository} is {there} on this machine, and downloads are switched off.",
                hint="Unset HF_HUB_OFFLINE for the first run, or give a folder.",
            ) from error
        raise DownloadFailed(
            f"{repository} is {there} on this machine, and Hugging Face cannot be reached.",
            hint="Try again with a network connection; what was downloaded is kept.",
        ) from error
    except Exception as error:  # HTTP libraries, the disk and Xet have no common ancestor
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DownloadFailed(
            f"The download of {repository} stopped: {reason}",
            hint="Run the same command again: complete files are not downloaded again.",
        ) from error
    return Path(folder)
