"""Deployment settings: read once from GLMIMAGE_... variables, refused when wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import InvalidSettings

PREFIX = "GLMIMAGE_"
DEVICES = "auto, cpu, cuda, cuda:N or mps"


class Settings(BaseSettings):
    """Hold what a machine decides, not what a request asks for."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    model: str = Field("nano", description="`nano`, a folder, or a Hugging Face id")
    device: str = Field("auto", description=DEVICES)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the weights"
    )
    memory: Literal["auto", "resident", "staged"] = Field(
        "auto", description="keep the whole model on the device, or one stage at a time"
    )
    cache_dir: Path | None = Field(None, description="where downloaded models are kept")
    offline: bool = Field(False, description="never download")

    @field_validator("model")
    @classmethod
    def _model_is_named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it must name a model")
        return value

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        kind, separator, index = value.partition(":")
        indexed = kind == "cuda" and index.isascii() and index.isdigit()
        if kind not in ("auto", "cpu", "cuda", "mps") or (separator and not indexed):
            raise ValueError(f"it must be {DEVICES}")
        return value

    def hub_environment(self) -> dict[str, str]:
        """Return the variables that make huggingface_hub obey; set them before its import."""
        variables: dict[str, str] = {}
        if self.cache_dir is not None:
            variables["HF_HUB_CACHE"] = str(self.cache_dir.expanduser())
        if self.offline:
            variables["HF_HUB_OFFLINE"] = "1"
        return variables


def load_settings(**options: object) -> Settings:
    """Read the environment; an option that is not None wins; raise InvalidSettings naming it."""
    given = {name: value for name, value in options.items() if value is not None}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            raise InvalidSettings(
                f"There is no setting {variable}.", hint=f"Known are: {', '.join(sorted(known))}."
            )
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _sentence(error, given) from None


def _sentence(error: ValidationError, given: dict[str, object]) -> InvalidSettings:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    source = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] != "value_error":
        reason = f"it must be {reason}"
    return InvalidSettings(f"{source} is {first['input']!r}; {reason}.")
