"""Adapters by the names that requests give them: names of folders in one folder of the server's."""

from __future__ import annotations

from ..config import Settings
from ..errors import InvalidLora
from ..lora import find_lora, lora_version
from .fal.errors import ModelError, detail_item
from .fal.schemas import TextToImageInput

LoraIdentity = tuple[str, str, float]


def lora_identities(settings: Settings, valid: TextToImageInput) -> list[LoraIdentity]:
    """Return (name, version, scale) of a request's adapters that count; raise ModelError (422)."""
    found = []
    for index, lora in enumerate(valid.loras):
        try:
            folder = find_lora(settings.lora_dir, lora.path)
        except InvalidLora as error:
            where = ("body", "loras", index, "path")
            raise ModelError(
                [
                    detail_item(
                        "value_error", f"Value error, {error.message}", where, given=lora.path
                    )
                ]
            ) from None
        if lora.scale:
            found.append((lora.path, lora_version(folder), lora.scale))
    return found
