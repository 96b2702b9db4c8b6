"""The endpoints' input and output: published names, defaults and ranges, and their 422s."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictStr,
    Tag,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ...lora import MAX_LORA_SCALE, MAX_LORAS, MIN_LORA_SCALE
from ...quotes import get_glyph_texts
from ...types import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_SIDE,
    MAX_SOURCE_IMAGES,
    MIN_GUIDANCE,
    MIN_SIDE,
    SIDE_STEP,
    SIZE_PRESETS,
)
from .errors import ModelError, detail_item

TEXT_TO_IMAGE = "fal-ai/glm-image"
IMAGE_TO_IMAGE = "fal-ai/glm-image/image-to-image"
APP = TEXT_TO_IMAGE
"""Requests of both endpoints are read under this id."""
MIN_STEPS, MAX_STEPS = 10, 100

SAYS_SOMETHING = r"^[^\x00]*[^\s\x00][^\x00]*$"
"""Published with the prompt; checked below, with a sentence for each fault."""

Preset = Literal[
    "square_hd",
    "square",
    "portrait_4_3",
    "portrait_16_9",
    "portrait_3_2",
    "portrait_hd",
    "landscape_4_3",
    "landscape_16_9",
    "landscape_3_2",
    "landscape_hd",
]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP)]


def _not_bool(value: object) -> object:
    # JSON's true is no number, though Python would take it for 1
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid number, not a boolean")
    return value


def _not_bool_either(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number, not a boolean")
    return value


def _true_or_false(value: object) -> object:
    if isinstance(value, str) and value.lower() not in ("true", "false"):
        raise PydanticCustomError("bool_parsing", "Input should be true or false")
    if not isinstance(value, bool | str):
        raise PydanticCustomError("bool_type", "Input should be true or false")
    return value


Whole = BeforeValidator(_not_bool)
Switch = Annotated[bool, BeforeValidator(_true_or_false)]
Decimal = BeforeValidator(_not_bool_either)


class ImageSize(BaseModel):
    """A size of your own, in px."""

    width: Annotated[Side, Whole] = Field(512, description="The width of the generated image.")
    height: Annotated[Side, Whole] = Field(512, description="The height of the generated image.")


def _kind_of_size(value: object) -> str:
    return "object" if isinstance(value, Mapping | ImageSize) else "preset"


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _or_one_string(schema: dict[str, Any]) -> None:
    names = ("type", "items", "minItems", "maxItems")
    several = {name: schema.pop(name) for name in names if name in schema}
    schema["anyOf"] = [several, {"type": "string", "minLength": 1}]


class LoraWeight(BaseModel):
    """Adapters to paint with, in the form of fal's other image models."""

    path: StrictStr = Field(
        description="The name of adapters that this server has.", min_length=1, max_length=200
    )
    scale: Annotated[float, Decimal] = Field(
        1.0,
        ge=MIN_LORA_SCALE,
        le=MAX_LORA_SCALE,
        allow_inf_nan=False,
        description="How strongly they count; 0 is as if they were not there.",
    )


class TextToImageInput(BaseModel):
    """What `fal-ai/glm-image` takes. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: StrictStr = Field(
        description="Text prompt for image generation; words to be written in it go in quotes.",
        min_length=1,
        max_length=MAX_PROMPT_CHARACTERS,
        json_schema_extra={"pattern": SAYS_SOMETHING},
        examples=["A conference poster with the headline 'AI Summit 2026' in bold sans-serif"],
    )
    image_size: Annotated[
        Annotated[Preset, Tag("preset")] | Annotated[ImageSize, Tag("object")],
        Discriminator(_kind_of_size),
    ] = Field("square_hd", description="Output image size: a preset, or width and height in px.")
    num_inference_steps: Annotated[int, Whole] = Field(
        30, ge=MIN_STEPS, le=MAX_STEPS, description="Number of diffusion denoising steps."
    )
    guidance_scale: Annotated[float, Decimal] = Field(
        1.5,
        ge=MIN_GUIDANCE,
        le=MAX_GUIDANCE,
        allow_inf_nan=False,
        description="How closely the picture follows the prompt.",
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), Whole] | None = Field(
        None, description="The same seed and input give the same picture."
    )
    num_images: Annotated[int, Whole] = Field(
        1, ge=1, le=MAX_IMAGES, description="Number of images to generate."
    )
    enable_safety_checker: Switch = Field(True, description="Check prompt and pictures.")
    output_format: Literal["jpeg", "png"] = Field("jpeg", description="Output image format.")
    sync_mode: Switch = Field(
        False, description="Return the pictures as data URIs; they are not stored."
    )
    enable_prompt_expansion: Switch = Field(
        False, description="Let a language model enrich the prompt first."
    )
    text_check: Switch = Field(
        False,
        description="Not fal's: read the finished pictures, and tell which of the prompt's words "
        "in quotes were found.",
    )
    best_of: Annotated[int, Whole] = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        description="Not fal's: paint so many pictures, read them, and return the num_images in "
        "which most of the prompt's words in quotes were found. All that are painted are charged. "
        "Below num_images, or without words in quotes, it changes nothing.",
    )
    loras: list[LoraWeight] = Field(
        default_factory=list,
        max_length=MAX_LORAS,
        description="Not of fal's GLM-Image: adapters to paint with, which add up.",
    )

    @property
    def num_candidates(self) -> int:
        """Return how many pictures are painted: without words to choose by, none too many."""
        has_words = any(text.split() for text in get_glyph_texts(self.prompt))
        return max(self.num_images, self.best_of if has_words else 1)

    @property
    def checks_text(self) -> bool:
        """Tell whether the pictures are read; choosing means reading."""
        return self.text_check or self.best_of > 1

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, value: str) -> str:
        if not value.strip():
            raise PydanticCustomError("value_error", "Value error, the prompt is empty")
        if "\0" in value:
            raise PydanticCustomError(
                "value_error", "Value error, the prompt holds a NUL character"
            )
        return value

    def size(self) -> tuple[int, int]:
        """Return (width, height), px."""
        if isinstance(self.image_size, ImageSize):
            return self.image_size.width, self.image_size.height
        return SIZE_PRESETS[self.image_size]


class ImageToImageInput(TextToImageInput):
    """What `fal-ai/glm-image/image-to-image` takes. Unknown fields are ignored."""

    image_urls: Annotated[
        list[Annotated[StrictStr, Field(min_length=1)]], BeforeValidator(_one_or_many)
    ] = Field(
        description="References, 1 to 4: http(s) URLs or data URIs. The first is the subject.",
        json_schema_extra=_or_one_string,
        min_length=1,
        max_length=MAX_SOURCE_IMAGES,
    )


class Image(BaseModel):
    """One picture of the answer."""

    url: str = Field(description="Where the picture is, or the picture itself as a data URI.")
    content_type: str | None = Field(None, examples=["image/jpeg"])
    file_name: str | None = None
    file_size: int | None = Field(None, description="bytes")
    width: int | None = Field(None, description="px")
    height: int | None = Field(None, description="px")


class TextCheck(BaseModel):
    """What was read in one picture, compared with the prompt's words in quotes."""

    found: list[str] = Field(description="The words that were read.")
    missing: list[str] = Field(description="The words that were not.")
    accuracy: float = Field(description="The share of words that were read, 0 to 1.")
    similarity: float = Field(description="How near the words come to what was read, 0 to 1.")
    seed: int = Field(description="The picture's own seed: alone it gives this picture again.")
    num_candidates: int = Field(description="How many pictures it was chosen from.")


class Output(BaseModel):
    """What both endpoints answer."""

    images: list[Image] = Field(description="The generated images.")
    timings: dict[str, float] = Field(description="Seconds, by stage.")
    seed: int = Field(description="The seed that was used: the given one, or the one drawn.")
    has_nsfw_concepts: list[bool] = Field(description="Whether each picture was blacked out.")
    prompt: str = Field(description="The prompt that was used, expanded if that was asked for.")
    text_check: list[TextCheck] | None = Field(
        None, description="Not fal's: what was read in each picture, when that was asked for."
    )


INPUTS: dict[str, type[TextToImageInput]] = {
    TEXT_TO_IMAGE: TextToImageInput,
    IMAGE_TO_IMAGE: ImageToImageInput,
}


def validate(endpoint: str, body: Mapping[str, Any]) -> TextToImageInput:
    """Check the body against the endpoint's schema; raise ModelError with every fault in it."""
    try:
        return INPUTS[endpoint].model_validate(body)
    except ValidationError as error:
        raise ModelError([_detail(entry) for entry in error.errors(include_url=False)]) from None


def stored_input(valid: TextToImageInput) -> dict[str, Any]:
    """Return the valid input as JSON with every default filled in."""
    value: dict[str, Any] = valid.model_dump(mode="json")
    return value


_TAGS = {"preset", "object"}


def _detail(entry: ErrorDetails) -> dict[str, Any]:
    kind = entry["type"]
    loc = ["body", *entry["loc"]]
    if len(loc) > 2 and loc[1] == "image_size" and loc[2] in _TAGS:
        del loc[2]  # the branch of the union is no part of the caller's document
    ctx = {name: value for name, value in entry.get("ctx", {}).items() if name != "error"}
    if kind == "literal_error":
        kind = "one_of"
        ctx = {"expected": list(_choices(loc[-1]))}
    elif kind in ("too_short", "too_long"):
        length = "min_length" if kind == "too_short" else "max_length"
        kind, ctx = f"sequence_{kind}", {length: ctx[length]}
    return detail_item(kind, entry["msg"], loc, _plain(ctx), entry["input"])


def _choices(field: str | int) -> tuple[str, ...]:
    return tuple(SIZE_PRESETS) if field == "image_size" else ("jpeg", "png")


def _plain(ctx: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(ctx, default=str))
    return plain
