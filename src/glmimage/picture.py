"""One image of a request, as it goes through the stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .prompt import PriorInputs
from .types import GenerationRequest, PriorReady, image_seed


@dataclass(eq=False)
class Picture:
    """Collect what the stages find out about one image.

    inputs: the encoded prompt, set by `encode_prompts` and shared by the request's images.
    source_ids: the prior tokens of each reference, (h*w,) at 1/32. prior: set when it is written;
    a picture that brings one is painted from it. expected: where the newest denoise step saw its
    latents end, (C, H/8, W/8). timings: seconds spent on this picture; what was spent on several is
    divided evenly.
    """

    request_id: str
    image_index: int
    request: GenerationRequest
    inputs: PriorInputs | None = None
    source_ids: tuple[Tensor, ...] = ()
    prior: PriorReady | None = None
    expected: Tensor | None = None
    timings: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("prior_s", "denoise_s", "decode_s"), 0.0)
    )

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.image_index

    @property
    def encoded(self) -> PriorInputs:
        """Return `inputs`; ValueError when the prompt is not encoded yet."""
        if self.inputs is None:
            raise ValueError("the prompt is not encoded yet; see encode_prompts")
        return self.inputs

    @property
    def seed(self) -> int:
        if self.request.seed is None:
            raise ValueError("the request has no seed; take request.seeded()")
        return image_seed(self.request.seed, self.image_index)


def make_pictures(request_id: str, request: GenerationRequest) -> list[Picture]:
    """Return the pictures a request asks for; a request without a seed is given one."""
    request = request.seeded()
    return [Picture(request_id, index, request) for index in range(request.num_images)]


def share_time(pictures: Sequence[Picture], name: str, started_s: float) -> None:
    """Add what passed since `started_s` (perf_counter) to the timings, in equal parts."""
    part = (time.perf_counter() - started_s) / len(pictures)
    for picture in pictures:
        picture.timings[name] += part
