"""Every failure the package raises on purpose, as one tree.

    GlmImageError
    ├── InvalidRequest          a value of the request is wrong; `field` names it
    │   ├── InvalidPrompt
    │   ├── InvalidSize
    │   ├── InvalidImage        a reference picture is unreadable, too large, too narrow ...
    │   └── InvalidLora         adapters are missing, damaged or of another model
    ├── InvalidSettings         an environment variable or option of the deployment is wrong
    ├── ModelError
    │   ├── ModelNotFound       no such name, folder or Hugging Face id
    │   ├── CheckpointInvalid   a file of the checkpoint is missing, damaged or of another model
    │   └── DownloadFailed
    ├── ServerNotFound          no server runs, or it has no key for us
    ├── InvalidDataset          pictures to train on are missing, too small, without a caption ...
    ├── OutputError             the picture cannot be written where it was asked for
    ├── OutOfMemory
    └── Aborted

`str(error)` is one sentence for the person who made the request; `code` is stable and for programs.
"""


class GlmImageError(Exception):
    """Say what is wrong in one sentence, and in `hint` what to do about it."""

    code = "internal_error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive Exception's own pickling
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(
    kind: type[GlmImageError], message: str, attributes: dict[str, object]
) -> GlmImageError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class InvalidRequest(GlmImageError):
    """Refuse a request; `field` is the name of the wrong field of `GenerationRequest`."""

    code = "invalid_request"
    default_field = ""

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field or self.default_field


class InvalidPrompt(InvalidRequest):
    code = "invalid_prompt"
    default_field = "prompt"


class InvalidSize(InvalidRequest):
    code = "invalid_size"
    default_field = "size"


class InvalidImage(InvalidRequest):
    code = "invalid_image"
    default_field = "source_images"


class InvalidLora(InvalidRequest):
    code = "invalid_lora"
    default_field = "loras"


class InvalidSettings(GlmImageError):
    code = "invalid_settings"


class ModelError(GlmImageError):
    code = "model_error"


class ModelNotFound(ModelError):
    code = "model_not_found"


class CheckpointInvalid(ModelError):
    code = "checkpoint_invalid"


class DownloadFailed(ModelError):
    code = "download_failed"


class ServerNotFound(GlmImageError):
    code = "server_not_found"


class InvalidDataset(GlmImageError):
    code = "invalid_dataset"


class OutputError(GlmImageError):
    code = "output_error"


class OutOfMemory(GlmImageError):
    code = "out_of_memory"


class Aborted(GlmImageError):
    code = "aborted"
