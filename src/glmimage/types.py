"""The frozen values that cross borders: the request, the events, the result. No torch here."""

from __future__ import annotations

import copy
import math
import operator
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

from PIL import Image

from .errors import GlmImageError, InvalidPrompt, InvalidRequest, InvalidSize
from .lora import Lora, check_loras
from .source_images import normalise_source_image

SIDE_STEP = 32
MIN_SIDE, MAX_SIDE = 512, 2048
"""px, both sides of a picture."""
MAX_PROMPT_CHARACTERS = 4096
MIN_STEPS, MAX_STEPS = 1, 100
MIN_GUIDANCE, MAX_GUIDANCE = 1.0, 10.0
MAX_IMAGES = 4
MAX_SOURCE_IMAGES = 4
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 2.0

SIZE_PRESETS: dict[str, tuple[int, int]] = {  # name -> (width, height)
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "portrait_3_2": (1024, 1536),
    "portrait_hd": (1088, 1920),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
    "landscape_3_2": (1536, 1024),
    "landscape_hd": (1920, 1088),
}


@dataclass(frozen=True)
class GenerationRequest:
    """Ask for `num_images` pictures of one prompt; a value that exists is a value that is valid.

    width, height: px, 512 to 2048 in steps of 32. seed: None draws one in `seeded()`.
    source_images: up to 4 references; held as loaded RGB. temperature, top_p: None takes the
    checkpoint's generation_config.json. loras: folders of adapters, up to 4, that add up. Raises
    InvalidRequest or one of its kinds.
    """

    prompt: str
    width: int = 1024
    height: int = 1024
    num_inference_steps: int = 30
    guidance_scale: float = 1.5
    seed: int | None = None
    num_images: int = 1
    source_images: tuple[Image.Image, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    loras: Sequence[Lora] = ()

    def __post_init__(self) -> None:
        valid: dict[str, object] = {
            "prompt": check_prompt(self.prompt),
            "num_inference_steps": _whole(
                "num_inference_steps", self.num_inference_steps, MIN_STEPS, MAX_STEPS
            ),
            "guidance_scale": _number(
                "guidance_scale", self.guidance_scale, MIN_GUIDANCE, MAX_GUIDANCE
            ),
            "num_images": _whole("num_images", self.num_images, 1, MAX_IMAGES),
        }
        valid["width"], valid["height"] = check_size(self.width, self.height)
        if self.seed is not None:
            valid["seed"] = _whole("seed", self.seed, 0, MAX_SEED)
        if self.temperature is not None:
            valid["temperature"] = _number(
                "temperature", self.temperature, 0.0, MAX_TEMPERATURE, above_low=True
            )
        if self.top_p is not None:
            valid["top_p"] = _number("top_p", self.top_p, 0.0, 1.0, above_low=True)
        valid["source_images"] = _check_source_images(self.source_images)
        valid["loras"] = check_loras(self.loras)
        for name, value in valid.items():
            object.__setattr__(self, name, value)

    def seeded(self) -> GenerationRequest:
        """Return the request with a seed: its own, or a random one below 2**32."""
        if self.seed is not None:
            return self
        seeded = copy.copy(self)  # everything but the seed is checked, and the references are held
        object.__setattr__(seeded, "seed", secrets.randbelow(2**32))
        return seeded


def image_seed(seed: int, image_index: int) -> int:
    """Return the seed of one picture of a request, 0 .. 2**53 - 1 for index > 0.

    Picture 0 has the request's own seed, so any picture can be made again alone by asking for
    its seed. The others are splitmix64 of `seed + index * golden gamma` (Steele, Lea, Flood,
    "Fast splittable pseudorandom number generators", 2014), cut to the 53 bits that JSON keeps.
    """
    if image_index == 0:
        return seed
    mask = 2**64 - 1
    z = (seed + image_index * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 11


def parse_size(text: str) -> tuple[int, int]:
    """Read a preset name or `WIDTHxHEIGHT`; return (width, height); raise InvalidSize."""
    name = text.strip().lower()
    if name in SIZE_PRESETS:
        return SIZE_PRESETS[name]
    width, separator, height = name.partition("x")
    if separator and width.isascii() and height.isascii() and (width + height).isdigit():
        if max(len(width), len(height)) <= 9 and width and height:
            return check_size(int(width), int(height))
    raise InvalidSize(
        f"Unknown size {text[:40]!r}.",
        hint=f"Use WIDTHxHEIGHT, such as 1024x576, or one of: {', '.join(SIZE_PRESETS)}.",
    )


def check_size(width: object, height: object) -> tuple[int, int]:
    """Return (width, height), both 512 to 2048 px in steps of 32; raise InvalidSize."""
    sides: list[int] = []
    for name, value in (("width", width), ("height", height)):
        side = _as_int(value)
        if side is None:
            raise InvalidSize(
                f"{name} must be a whole number of pixels, not {_show(value)}.", field=name
            )
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise InvalidSize(
                f"{name} is {side} px; it must be between {MIN_SIDE} and {MAX_SIDE}.", field=name
            )
        if side % SIDE_STEP:
            below = side // SIDE_STEP * SIDE_STEP
            raise InvalidSize(
                f"{name} is {side} px; it must be a multiple of {SIDE_STEP}.",
                field=name,
                hint=f"The nearest are {below} and {below + SIDE_STEP}.",
            )
        sides.append(side)
    return sides[0], sides[1]


def check_prompt(prompt: object) -> str:
    """Return the prompt when it says something at a usable length; raise InvalidPrompt."""
    if not isinstance(prompt, str):
        raise InvalidPrompt(f"The prompt must be text, not {type(prompt).__name__}.")
    if not prompt.strip():
        raise InvalidPrompt(
            "The prompt is empty.",
            hint="Describe the picture; put the words that should be written in it in quotes.",
        )
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidPrompt(
            f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are read.",
            hint="Shorten it.",
        )
    if "\0" in prompt or any(0xD800 <= ord(character) <= 0xDFFF for character in prompt):
        raise InvalidPrompt("The prompt is not valid text (UTF-8).", hint="Type it anew.")
    return prompt


def _check_source_images(images: object) -> tuple[Image.Image, ...]:
    if isinstance(images, Image.Image):
        images = (images,)
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise InvalidRequest(
            f"source_images must be a sequence of PIL images, not {type(images).__name__}.",
            field="source_images",
        )
    if len(images) > MAX_SOURCE_IMAGES:
        raise InvalidRequest(
            f"{len(images)} reference images were given; at most {MAX_SOURCE_IMAGES} are used.",
            field="source_images",
        )
    return tuple(
        normalise_source_image(image, f"reference image {index + 1}")
        for index, image in enumerate(images)
    )


def _whole(name: str, value: object, low: int, high: int) -> int:
    number = _as_int(value)
    if number is None:
        raise InvalidRequest(f"{name} must be a whole number, not {_show(value)}.", field=name)
    if not low <= number <= high:
        raise InvalidRequest(
            f"{name} is {_show(number)}; it must be between {low} and {high}.", field=name
        )
    return number


def _number(name: str, value: object, low: float, high: float, *, above_low: bool = False) -> float:
    is_number = isinstance(value, SupportsFloat) and not isinstance(value, bool | str)
    number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if math.isnan(number):
        raise InvalidRequest(f"{name} must be a number, not {_show(value)}.", field=name)
    if not low <= number <= high or (above_low and number == low):
        above = (
            f"above {low:g} and at most {high:g}" if above_low else f"between {low:g} and {high:g}"
        )
        raise InvalidRequest(f"{name} is {number:g}; it must be {above}.", field=name)
    return number


def _as_int(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True)
class Queued:
    request_id: str


@dataclass(frozen=True)
class PriorProgress:
    """Say how many of the picture's prior tokens are written."""

    request_id: str
    image_index: int
    num_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class SmallGridReady:
    """Carry the preview's tokens; text to image only. grid: (height, width) in tokens."""

    request_id: str
    image_index: int
    grid: tuple[int, int]
    prior_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenCounts:
    """Count what the prior reads for a picture, of text and of references, and what it writes."""

    text: int
    image: int
    output: int


@dataclass(frozen=True)
class PriorReady:
    """Carry the tokens the decoder paints, at 1/32 of the picture, row by row.

    counts: what it took; None where the tokens were given.
    """

    request_id: str
    image_index: int
    large_grid: tuple[int, int]
    prior_token_ids: tuple[int, ...]
    counts: TokenCounts | None = None


@dataclass(frozen=True)
class DenoiseStep:
    """Say that `step` of `num_inference_steps` is done; steps count from 1."""

    request_id: str
    image_index: int
    step: int
    num_inference_steps: int


@dataclass(frozen=True)
class PictureReady:
    """Carry a finished picture. seed: its own (see `image_seed`). timings: seconds by stage."""

    request_id: str
    image_index: int
    image: Image.Image
    seed: int
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    request_id: str
    error: GlmImageError


Event = Queued | PriorProgress | SmallGridReady | PriorReady | DenoiseStep | PictureReady | Failed


@dataclass(frozen=True)
class GenerationResult:
    """Hold what `generate()` made: `images[i]` was painted from `prior_token_ids[i]`.

    images: PIL, RGB, each with its seed in `.info["seed"]`. timings: prior_s, denoise_s,
    decode_s, total_s.
    """

    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    timings: Mapping[str, float]
    prior_token_ids: tuple[tuple[int, ...], ...]
