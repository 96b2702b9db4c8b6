"""How many tokens the autoregressive half reads and writes for a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import GenerationRequest

if TYPE_CHECKING:
    from ..prompt import PromptEncoder


def count_tokens(encoder: PromptEncoder, request: GenerationRequest) -> dict[str, int]:
    """Return `text` and `image` read, once a request, and `output` written, for all pictures."""
    size = request.height, request.width
    inputs = encoder.encode(request.prompt, *size, request.source_images)
    num_image = sum(height * width for height, width in inputs.source_grids)
    return {
        "text": inputs.input_ids.numel() - num_image,
        "image": num_image,
        "output": inputs.num_tokens * request.num_images,
    }
