"""Deployment settings: read once from GLMIMAGE_... variables, refused when wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import InvalidSettings
from .fast import parse_fast
from .lossy import Lossy

PREFIX = "GLMIMAGE_"
DEVICES = "auto, cpu, cuda, cuda:N or mps"


def default_data_dir() -> Path:
    """Return the folder where this system keeps a user's program data."""
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/glmimage").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "glmimage"


class Settings(BaseSettings):
    """Hold what a machine decides, not what a request asks for."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    model: str = Field("nano", description="`nano`, a folder, or a Hugging Face id")
    device: str = Field("auto", description=DEVICES)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the weights"
    )
    memory: Literal["auto", "resident", "staged", "layered"] = Field(
        "auto",
        description="keep the whole model on the device, one stage at a time, or layer by layer",
    )
    lossy: str = Field(
        "",
        description="what may be traded for speed or memory, such as "
        "weights=int8,guidance=0-0.6,step_cache=0.08; pictures change",
    )
    fast: str = Field(
        "",
        description="switches that compute the same but for rounding, some after a warm-up: "
        "compile (the decoder, and the prior with graphs), graphs (the prior, on CUDA), "
        "guesses (of the prior's next tokens, several read in a pass; a CPU does so by itself)",
    )
    lora_dir: Path | None = Field(
        None, description="adapters that requests may name: a folder of each, see docs/training.md"
    )
    cache_dir: Path | None = Field(None, description="where downloaded models are kept")
    offline: bool = Field(False, description="never download")

    # the service: where it keeps things, and where it listens
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="everything the service keeps: database, files, certificates, keys; "
        "by default a folder of the user's",
    )
    database_url: str | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST/NAME; by default a SQLite file in data_dir",
    )
    database_direct_url: str | None = Field(
        None,
        description="PostgreSQL's own address, where database_url leads through a pooler such as "
        "PgBouncer",
    )
    files_url: str | None = Field(
        None, description="s3://BUCKET/PREFIX, or a folder; by default `files` in data_dir"
    )
    files_access: Literal["gateway", "bucket"] = Field(
        "gateway",
        description="how clients reach files in a bucket: through the server, or straight, at "
        "addresses that are signed for minutes",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every one")
    http_port: int = Field(8000, ge=0, le=65535, description="0 takes any free one")
    https_port: int = Field(8443, ge=0, le=65535, description="0 takes any free one")
    public_url: str | None = Field(
        None,
        description="address under which clients reach the server, such as "
        "https://pictures.example.org; by default that of each request",
    )
    tls_names: str = Field(
        "", description="more names and addresses for the certificate, separated by commas"
    )
    tls_cert: Path | None = Field(None, description="a certificate of your own (PEM, with chain)")
    tls_key: Path | None = Field(None, description="its private key")
    auth: bool = Field(True, description="off: no key is asked for; only on a loopback address")
    api_key: str | None = Field(
        None, description="what `exec` and `env` hand to clients; by default the first key made"
    )
    operator_keys: str = Field(
        "first",
        description="keys, by name or id, that may see the queue, the workers and everybody's "
        "usage and failures; separated by commas",
    )
    secret: SecretStr | None = Field(
        None,
        description="signs tokens and upload addresses, the same on every server of a deployment; "
        "by default one is made in data_dir",
    )
    workers: int = Field(1, ge=0, le=64, description="workers that `glmimage serve` starts")
    stop_timeout_s: float = Field(
        30.0, ge=0, description="seconds that work in hand gets when the service stops"
    )

    # what it says of itself
    log_format: Literal["human", "json"] = Field("human", description="form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="from which weight on lines are written; debug shows every poll"
    )
    log_prompts: bool = Field(False, description="write prompts into the log")
    traces_url: str | None = Field(
        None,
        description="where OpenTelemetry traces go: http://COLLECTOR:4318 or file:///PATH; needs "
        "the extra `otel`",
    )
    health_file: Path | None = Field(
        None,
        description="a file that a worker touches every two seconds while it works; for probes",
    )

    # the workers
    worker_jobs: int = Field(
        4, ge=1, le=256, description="requests that a worker takes in hand at once"
    )
    lease_s: float = Field(
        30.0,
        ge=0.5,
        description="how long a worker may be silent before others take its requests",
    )

    # the service: which requests it takes, and how it answers them
    max_body_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="largest request body; uploads have their own limit"
    )
    max_queue_length: int = Field(
        100_000, ge=1, description="requests that may wait for an endpoint; more are answered 429"
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="how often a worker may begin a request before it is given up"
    )
    no_worker_timeout_s: float = Field(
        120.0, gt=0, description="without a live worker for so long, requests are answered 503"
    )
    fallback: bool = Field(
        False,
        description="when overloaded or without a worker, answer with the newest stored picture "
        "of the same prompt",
    )
    result_cache: bool = Field(
        True, description="answer the same input with the same seed from stored pictures"
    )
    cors_origins: str = Field(
        "*", description="web pages that may call the server: origins separated by commas, or *"
    )
    unit_price: float = Field(
        0.15, ge=0, description="what a megapixel costs, in dollars, for usage and estimates"
    )
    defer_validation: bool = Field(
        True,
        description="the queue takes an invalid input and tells the fault by its result, as fal "
        "does; off: it answers 422 at once",
    )
    model_aliases: str = Field(
        "",
        description="more names that requests in OpenAI's form may give the model, separated by "
        "commas, such as gpt-image-1; `glm-image` and GLMIMAGE_MODEL are known",
    )
    open_proxy: bool = Field(
        False, description="let /api/fal/proxy be used without a key, as web pages do"
    )

    # the service: files, and how long things are kept
    output_lifetime_s: float = Field(
        86400.0, ge=0, description="how long pictures are kept unless a request says; 0 is forever"
    )
    upload_lifetime_s: float = Field(
        7 * 86400.0, ge=0, description="how long uploads are kept unless one says; 0 is forever"
    )
    max_upload_bytes: int = Field(
        1024**3, ge=1, description="largest uploaded file, one of many parts included"
    )
    result_lifetime_s: float = Field(
        30 * 86400.0, ge=3600, description="how long requests and their answers can be read"
    )
    history_lifetime_s: float = Field(
        365 * 86400.0, ge=3600, description="how long it is known that there was a request"
    )

    # the service: what it refuses, and whom it asks
    terms_file: Path | None = Field(
        None, description="terms that a prompt is refused for; by default the list that ships"
    )
    nsfw_threshold: float = Field(
        0.5, gt=0, le=1, description="score from which a finished picture is returned black"
    )
    moderation_url: str | None = Field(
        None, description="OpenAI-compatible endpoint that checks prompts, up to its /v1"
    )
    moderation_model: str = Field("omni-moderation-latest", description="its model")
    moderation_api_key: SecretStr | None = Field(None, description="its key")
    moderation_timeout_s: float = Field(10.0, gt=0, description="seconds for its answer")
    moderation_on_failure: Literal["error", "allow"] = Field(
        "error", description="while it is down, fail requests, or go on without it"
    )
    expansion_url: str | None = Field(
        None, description="OpenAI-compatible chat endpoint that expands prompts, up to its /v1"
    )
    expansion_model: str = Field("", description="its model")
    expansion_api_key: SecretStr | None = Field(None, description="its key")
    expansion_timeout_s: float = Field(30.0, gt=0, description="seconds for its answer")
    expansion_on_failure: Literal["original", "error"] = Field(
        "original", description="when a prompt cannot be expanded, paint it as it is, or fail"
    )
    reference_hosts: str = Field(
        "",
        description="private addresses that references may be fetched from: hosts, .domains, "
        "addresses and networks, with :PORT if only one, separated by commas",
    )
    max_reference_bytes: int = Field(50 * 1024**2, ge=1, description="largest reference")
    reference_timeout_s: float = Field(30.0, gt=0, description="seconds for fetching a reference")
    webhook_hosts: str = Field(
        "", description="private addresses that webhooks may be sent to, in the same form"
    )
    webhook_window_s: float = Field(
        7200.0, ge=0, description="how long a webhook is tried again when its receiver fails"
    )

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

    @field_validator("lossy")
    @classmethod
    def _lossy_is_known(cls, value: str) -> str:
        try:
            return str(Lossy.parse(value))
        except InvalidSettings as error:
            raise ValueError(f"{str(error).rstrip('.')}") from None

    @field_validator("fast")
    @classmethod
    def _fast_is_known(cls, value: str) -> str:
        try:
            return ",".join(sorted(parse_fast(value)))
        except InvalidSettings as error:
            raise ValueError(f"{str(error).rstrip('.')}; {error.hint.rstrip('.')}") from None

    @field_validator("files_access")
    @classmethod
    def _only_a_bucket_is_reached_straight(cls, value: str, info: ValidationInfo) -> str:
        if value == "bucket" and not (info.data.get("files_url") or "").startswith("s3://"):
            raise ValueError("it needs a bucket: set GLMIMAGE_FILES_URL=s3://BUCKET/PREFIX")
        return value

    @field_validator("data_dir", "lora_dir")
    @classmethod
    def _folder_is_absolute(cls, value: Path | None) -> Path | None:
        # the worker and the command line must mean the same folder wherever they are started
        return None if value is None else value.expanduser().absolute()

    @field_validator("public_url")
    @classmethod
    def _public_url_is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("traces_url")
    @classmethod
    def _traces_have_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://", "file:///")):
            raise ValueError("it must begin with http://, https:// or file:///")
        return value

    @property
    def store_url(self) -> str:
        """Return the address of the job store."""
        return self.database_url or f"sqlite:///{self.data_dir / 'glmimage.sqlite3'}"

    @property
    def files_address(self) -> str:
        """Return where generated and uploaded files are kept."""
        return self.files_url or str(self.data_dir / "files")

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
