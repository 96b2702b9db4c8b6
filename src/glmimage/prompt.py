"""A prompt and its reference images as the autoregressive model reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .errors import InvalidImage, InvalidPrompt
from .quotes import get_glyph_texts as get_glyph_texts  # noqa: PLC0414 - known under this name
from .types import TokenCounts

Grid = tuple[int, int]  # rows, columns of prior tokens; one token is 32 px of the picture

MAX_SOURCE_ASPECT = 4


@dataclass(frozen=True, eq=False)
class PriorInputs:
    """What the prior stage needs for one prompt; all tensors on the CPU.

    input_ids: (S,) int64; image placeholders stand where `fill_sources` puts prior tokens.
    position_ids: (3, S) int64, the temporal, height and width position of each prompt token.
    decode_position_ids: (3, N), where each written token stands: small grid first, then large.
    pixel_values: float32 (sum of h * w over sources, channels * 16 * 16), or None.
    source_grids: one a reference; the decoder must see that reference at (32 * h, 32 * w) px.
    """

    input_ids: Tensor
    position_ids: Tensor
    decode_position_ids: Tensor
    small_grid: Grid | None
    large_grid: Grid
    image_token_id: int
    pixel_values: Tensor | None = None
    source_grids: tuple[Grid, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Count the tokens to write; the end marker after them is never needed."""
        return self.decode_position_ids.shape[1]

    @property
    def counts(self) -> TokenCounts:
        """Count what is read and written."""
        image = sum(height * width for height, width in self.source_grids)
        return TokenCounts(self.input_ids.numel() - image, image, self.num_tokens)

    @property
    def num_small(self) -> int:
        """Count the tokens of the small grid, which come first; 0 when there is none."""
        return self.small_grid[0] * self.small_grid[1] if self.small_grid else 0

    def columns_at(self, number: int) -> int:
        """Return how many columns the grid has that token `number` is of."""
        grid = self.small_grid if self.small_grid and number < self.num_small else self.large_grid
        return grid[1]

    @property
    def max_length(self) -> int:
        """Count the cache positions this prompt and its tokens fill; the last token is not fed."""
        return self.input_ids.numel() + self.num_tokens - 1

    @property
    def source_grid_thw(self) -> Tensor:
        """Return the (1, h, w) of each reference as VisionTokenizer wants them."""
        return torch.tensor([(1, *grid) for grid in self.source_grids]).view(-1, 3)

    def large_tokens(self, prior_token_ids: Tensor) -> Tensor:
        """Cut the large grid, (..., h * w), out of all written tokens (..., N)."""
        return prior_token_ids[..., self.num_small :]


def fill_sources(inputs: PriorInputs, source_ids: Sequence[Tensor]) -> PriorInputs:
    """Put the prior tokens of the references, one (h * w,) each, where their placeholders stand."""
    sizes = [h * w for h, w in inputs.source_grids]
    if [ids.numel() for ids in source_ids] != sizes:
        found = [ids.numel() for ids in source_ids]
        raise ValueError(f"references of {sizes} prior tokens were given {found} of them")
    if not sizes:
        return inputs
    input_ids = inputs.input_ids.clone()
    input_ids[input_ids == inputs.image_token_id] = torch.cat(list(source_ids)).to(input_ids.device)
    return dataclasses.replace(inputs, input_ids=input_ids)


class PromptEncoder:
    """Turn prompts into PriorInputs with the checkpoint's own processor.

    The processor (transformers' GlmImageProcessor) writes the chat template and the grid sizes,
    tokenises, and cuts references into patches; positions and checks are ours.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        own = [processor.image_token, processor.bos_token]
        own += [processor.grid_bos_token, processor.grid_eos_token]
        self.reserved = sorted({*special, *own})

    def encode(
        self,
        prompt: str,
        height: int,
        width: int,
        source_images: Sequence[Image.Image] = (),
    ) -> PriorInputs:
        """Encode one prompt for a picture of height x width px (multiples of 32).

        Raises InvalidPrompt for the model's own markers, InvalidImage for a reference beyond 4:1.
        """
        self._check_prompt(prompt)
        for number, image in enumerate(source_images, 1):
            self._check_source(image, number)
        content: list[dict[str, Any]] = [{"type": "image", "image": im} for im in source_images]
        content.append({"type": "text", "text": prompt})
        encoded = self.processor.apply_chat_template(
            [[{"role": "user", "content": content}]],
            tokenize=True,
            return_dict=True,
            processor_kwargs={"target_h": height, "target_w": width, "return_tensors": "pt"},
        )
        grids: list[Grid] = [(h, w) for _, h, w in encoded["image_grid_thw"].tolist()]
        sources = grids[: len(source_images)]
        # with references there is no preview: the large grid is all that is written
        large, *small = grids[len(source_images) :]
        input_ids = encoded["input_ids"][0]
        image_token_id = self.processor.image_token_id
        position_ids, start = _prompt_positions(input_ids == image_token_id, sources)
        return PriorInputs(
            input_ids=input_ids,
            position_ids=position_ids,
            decode_position_ids=_decode_positions([*small, large], start),
            small_grid=small[0] if small else None,
            large_grid=large,
            image_token_id=image_token_id,
            pixel_values=encoded["pixel_values"] if source_images else None,
            source_grids=tuple(sources),
        )

    def patches(self, image: Image.Image, grid: Grid) -> Tensor:
        """Cut a picture as a reference is cut, but into this grid: (h * w, channels * 16 * 16)."""
        cutter = self.processor.image_processor
        cut = cutter(image, return_tensors="pt") if _is_own_grid(image, grid) else None
        if cut is None or cut["image_grid_thw"][0].tolist() != [1, *grid]:
            half = image.resize(
                (cutter.patch_size * grid[1], cutter.patch_size * grid[0]), Image.Resampling.BICUBIC
            )
            cut = cutter(half, do_resize=False, return_tensors="pt")
        patches: Tensor = cut["pixel_values"]
        return patches

    def _check_prompt(self, prompt: str) -> None:
        for marker in self.reserved:
            if marker in prompt:
                raise InvalidPrompt(
                    f"The prompt contains {marker!r}, which the model reserves for itself.",
                    hint="Remove it, or write it differently.",
                )

    def _check_source(self, image: Image.Image, number: int) -> None:
        resizer = self.processor.image_processor
        least = resizer.patch_size * resizer.merge_size
        width, height = image.size
        if min(width, height) < least:
            raise InvalidImage(
                f"Reference image {number} is {width}x{height} px; both sides must have "
                f"at least {least} px.",
                hint="Give a larger picture.",
            )
        if max(width, height) > MAX_SOURCE_ASPECT * min(width, height):
            raise InvalidImage(
                f"Reference image {number} is {width}x{height} px; the longer side may be at most "
                f"{MAX_SOURCE_ASPECT} times the shorter one.",
                hint="Crop it.",
            )


def _is_own_grid(image: Image.Image, grid: Grid) -> bool:
    return image.size == (32 * grid[1], 32 * grid[0])


def _grid_positions(grid: Grid, start: int) -> Tensor:
    """Place a grid at `start`: (start, start + row, start + column) of each token; (3, h * w)."""
    rows = torch.arange(grid[0]).repeat_interleave(grid[1])
    columns = torch.arange(grid[1]).repeat(grid[0])
    return torch.stack((torch.zeros_like(rows), rows, columns)) + start


def _prompt_positions(is_image: Tensor, sources: Sequence[Grid]) -> tuple[Tensor, int]:
    """Return the positions (3, S) of a prompt, and the position that comes after it.

    Text advances one by one on all axes; an image takes max(h, w) positions, whatever its area.
    """
    placeholders = is_image.nonzero().flatten().tolist()
    if len(placeholders) != sum(h * w for h, w in sources):
        raise ValueError("the processor did not reserve one place for each prior token")
    parts, read, start, used = [], 0, 0, 0

    def text_until(end: int) -> None:
        nonlocal read, start
        parts.append((torch.arange(end - read) + start).expand(3, -1))
        start, read = start + end - read, end

    for grid in sources:
        text_until(placeholders[used])
        parts.append(_grid_positions(grid, start))
        start += max(grid)
        used += grid[0] * grid[1]
        read += grid[0] * grid[1]
    text_until(is_image.numel())
    return torch.cat(parts, dim=1), start


def _decode_positions(grids: Sequence[Grid], start: int) -> Tensor:
    """Return the positions (3, N) of the grids in the order they are written."""
    parts = []
    for grid in grids:
        parts.append(_grid_positions(grid, start))
        start += max(grid)
    return torch.cat(parts, dim=1)
