"""Give the tokens of nano's sixth version, which ships, the numbers that they have now; to be gone with that version.

It had neither mixtures of colours nor forms of shapes, and more of the other centres.
"""

from pathlib import Path

import numpy as np
import torch
from type_tokens import (
    AREA,
    CODEBOOK_SIZE,
    COLORS,
    FIRST_BACKGROUND,
    FIRST_COLORED,
    FORM,
    LAST,
    LENGTH,
    NUM_MESSAGES,
)

CENTRES = Path(__file__).parent / "sixth_codebook.npy"
RIDGE = 3.0  # of the plane through what colours are: it carries a centre's vector on to one nearby


def number_of(color: int, what: int) -> int:
    """Return the number that a message had."""
    return FIRST_COLORED + (len(COLORS) if color < 0 else color) * FORM + what


@torch.no_grad()
def renumbered(table: torch.Tensor, centres: np.ndarray) -> torch.Tensor:
    """Return a table of all vision ids, float (VISION_VOCAB_SIZE, width), in the present order.

    centres: the present ones. What is new begins as something like it: a form and an area as the message that no line
    follows, which pictures never say, a mixture as the nearest of the centres of then.
    """
    old = torch.from_numpy(np.load(CENTRES).astype(np.float32)) / 127.5 - 1
    new = torch.from_numpy(centres) * 2 - 1
    first = CODEBOOK_SIZE - len(old)  # of the backgrounds, then
    result, backgrounds = table.clone(), table[first:CODEBOOK_SIZE].float()
    for color in range(len(COLORS) + 1):
        was, now = FIRST_COLORED + color * FORM, FIRST_COLORED + color * NUM_MESSAGES
        result[now : now + FORM] = table[was : was + FORM]
        result[now + FORM : now + NUM_MESSAGES] = table[was + LAST]
    result[LENGTH:AREA] = table[first - (AREA - LENGTH) : first]
    result[AREA:FIRST_BACKGROUND] = table[number_of(-1, LAST)]
    learnt, mean = old[len(COLORS) :], backgrounds[len(COLORS) :].mean(0)
    square = learnt.T @ learnt + RIDGE * torch.eye(learnt.shape[1])
    plane = torch.linalg.solve(square, learnt.T @ (backgrounds[len(COLORS) :] - mean))
    nearest = torch.cdist(new, old).argmin(1)
    carried = backgrounds[nearest] + (new - old[nearest]) @ plane
    carried[: len(COLORS)] = backgrounds[: len(COLORS)]
    result[FIRST_BACKGROUND:CODEBOOK_SIZE] = carried.to(table.dtype)
    return result
