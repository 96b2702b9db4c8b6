"""What a request in OpenAI's form may say, and what that is in fal's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError
from pydantic_core import ErrorDetails

from ...errors import InvalidSize
from ...jobs.records import MAX_PREVIEWS, PREVIEW_FIELD
from ...types import MAX_IMAGES, MAX_SIDE, MIN_SIDE, SIDE_STEP, parse_size
from ..fal.schemas import Switch, Whole
from .errors import ApiError

AUTO_SIZE = (1024, 1024)
STEPS = {"low": 15, "medium": 30, "high": 50}
"""Denoise steps of each quality, unless num_inference_steps says otherwise."""
QUALITIES = {"auto": "medium", "standard": "medium", "hd": "high", **{name: name for name in STEPS}}
OWN_FIELDS = (
    "num_inference_steps guidance_scale seed enable_safety_checker enable_prompt_expansion "
    "text_check best_of loras"
).split()
"""Ours, as on fal's surfaces: they come by `extra_body`."""
SHORT = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
"""Other words for two of them."""
UNSUPPORTED = {
    "mask": "GLM-Image has no mask: it paints the whole picture anew. Say in the prompt what is to "
    "change and what is to stay, and leave 'mask' out.",
    "markup": "GLM-Image takes no markup. Say in the prompt what is to change.",
    "negative_prompt": "GLM-Image has no negative prompt: its guidance is against the empty one. "
    "Say in the prompt what is wanted.",
    "style": "Say in the prompt which style is wanted.",
    "complexity": "It is part of 'quality' here.",
    "frame_count": "Only still pictures are made.",
    "frame_duration_ms": "Only still pictures are made.",
    "svg": "Only pixels are made.",
}


class ImageParams(BaseModel):
    """Hold a checked request; what is also fal's is checked there."""

    model_config = ConfigDict(extra="forbid")

    prompt: StrictStr
    model: StrictStr = "glm-image"
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES), Whole] = 1
    size: StrictStr = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100), Whole] | None = None
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    input_fidelity: Literal["high", "low"] = "high"
    stream: Switch = False
    partial_images: Annotated[int, Field(ge=0, le=MAX_PREVIEWS), Whole] = 0
    user: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    own: dict[str, Any] = Field(default_factory=dict, exclude=True)

    @property
    def shown_quality(self) -> str:
        return QUALITIES[self.quality]

    def fal_body(self, size: tuple[int, int], image_urls: list[str] | None) -> dict[str, Any]:
        """Return the same request in fal's words. size: (width, height), px."""
        body: dict[str, Any] = {
            "prompt": self.prompt,
            "image_size": {"width": size[0], "height": size[1]},
            "num_images": self.n,
            "num_inference_steps": STEPS[self.shown_quality],
            "output_format": "jpeg" if self.output_format == "jpeg" else "png",
            **self.own,
        }
        if image_urls is not None:
            body["image_urls"] = image_urls
        return body

    def for_worker(self) -> dict[str, Any]:
        """Return what the worker is told beside it, where fal has no word."""
        told: dict[str, Any] = {}
        if self.output_format == "webp" or self.output_compression is not None:
            told["encoding"] = {"format": self.output_format, "quality": self.output_compression}
        if self.partial_images:
            told[PREVIEW_FIELD] = self.partial_images
        return told


def read_params(body: Mapping[str, Any]) -> ImageParams:
    """Check a request's fields; null is as good as nothing. Raise ApiError."""
    given = {name: value for name, value in body.items() if value is not None}
    for name, reason in UNSUPPORTED.items():
        if name in given:
            message = f"Unsupported parameter: '{name}'. {reason}"
            raise ApiError(400, message, "unsupported_parameter", name)
    for short, name in SHORT.items():
        if short in given and name in given:
            message = f"'{short}' and '{name}' are the same; give one of them."
            raise ApiError(400, message, "invalid_value", short)
        if short in given:
            given[name] = given.pop(short)
    own = {name: given.pop(name) for name in OWN_FIELDS if name in given}
    if "own" in given:
        raise _unknown("own")
    try:
        params = ImageParams.model_validate({**given, "own": own})
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None
    if params.partial_images and not params.stream:
        raise ApiError(
            400, "'partial_images' needs 'stream' to be true.", "invalid_value", "partial_images"
        )
    if params.output_format == "png" and params.output_compression not in (None, 100):
        message = "'output_compression' is for jpeg and webp; png is lossless."
        raise ApiError(400, message, "invalid_value", "output_compression")
    return params


def read_size(text: str, auto: tuple[int, int] = AUTO_SIZE) -> tuple[int, int]:
    """Return (width, height) of `auto` or WIDTHxHEIGHT; raise ApiError for what is not painted."""
    if text == "auto":
        return auto
    try:
        if "x" not in text:
            raise InvalidSize(f"'{text[:40]}' is neither 'auto' nor WIDTHxHEIGHT.")
        return parse_size(text)
    except InvalidSize as error:
        message = (
            f"Invalid 'size': {error.message} Supported are 'auto' and WIDTHxHEIGHT with both "
            f"sides from {MIN_SIDE} to {MAX_SIDE} in steps of {SIDE_STEP}, such as '1024x1024', "
            "'1536x1024' and '1024x1536'."
        )
        raise ApiError(400, message, "invalid_value", "size") from None


def auto_size_of(width: int, height: int) -> tuple[int, int]:
    """Return the size for an edit of a picture: its shape, at about one megapixel."""
    scale = (AUTO_SIZE[0] * AUTO_SIZE[1] / (width * height)) ** 0.5
    sides = (round(side * scale / SIDE_STEP) * SIDE_STEP for side in (width, height))
    fitted = [min(max(side, MIN_SIDE), MAX_SIDE) for side in sides]
    return fitted[0], fitted[1]


def _unknown(name: str) -> ApiError:
    message = (
        f"Unknown parameter: '{name[:60]}'. Beside OpenAI's, {', '.join(OWN_FIELDS)} are known."
    )
    return ApiError(400, message, "unknown_parameter", name[:60])


def _refusal(entry: ErrorDetails) -> ApiError:
    """Say what is wrong with one field, the way OpenAI does."""
    name, kind, ctx = str(entry["loc"][0]), entry["type"], entry.get("ctx", {})
    given = repr(entry["input"])[:60]
    if kind == "extra_forbidden":
        return _unknown(name)
    if kind == "missing":
        message = f"Missing required parameter: '{name}'."
        return ApiError(400, message, "missing_required_parameter", name)
    if kind == "literal_error":
        return ApiError(
            400, _unsupported_value(name, given, ctx["expected"]), "invalid_value", name
        )
    if kind == "greater_than_equal":
        message = f"Invalid '{name}': expected a value >= {ctx['ge']}, but got {given} instead."
        return ApiError(400, message, "integer_below_min_value", name)
    if kind == "less_than_equal":
        message = f"Invalid '{name}': expected a value <= {ctx['le']}, but got {given} instead."
        return ApiError(400, message, "integer_above_max_value", name)
    expected = entry["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    expected = expected.partition(",")[0]
    message = f"Invalid type for '{name}': expected {expected}, but got {given} instead."
    return ApiError(400, message, "invalid_type", name)


def _unsupported_value(name: str, given: str, expected: str) -> str:
    reasons = {
        "background": " GLM-Image paints opaque pictures only.",
    }
    reason = reasons.get(name, "")
    return f"Invalid value for '{name}': {given}. Supported values are: {expected}.{reason}"
