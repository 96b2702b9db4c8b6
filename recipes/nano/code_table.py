"""The table of all vision ids, put together from what ids name: the prior's embeddings and its head, the codebook."""

import numpy as np
import torch
from layout import PRIOR_CONFIG, VISION_VOCAB_SIZE
from torch import nn
from type_tokens import CHARS, CODEBOOK_SIZE, COLORS, MIX_STEPS, MIXES, NAMES, NUM_MESSAGES, NUM_STEPS, PARTS, STYLES


class CodeTable(nn.Module):
    """A vector for every vision id, put together from what ids name (character, part, style, message, colour, step).

    What is named alike learns together; `merged()` is what is saved.
    """

    def __init__(self, centres: np.ndarray, scale: float, width: int = PRIOR_CONFIG["hidden_size"]):
        super().__init__()
        sizes = {"char": len(CHARS), "part": len(PARTS), "style": len(STYLES), "message": NUM_MESSAGES}
        sizes |= {"step": NUM_STEPS, "background": len(centres), "special": VISION_VOCAB_SIZE - CODEBOOK_SIZE}
        for name, number in sizes.items():
            weight = scale * (1.0 if name in ("char", "special") else 0.5)
            self.register_parameter(name, nn.Parameter(torch.randn(number, width) * weight))
        self.colorless = nn.Parameter(torch.randn(1, width) * scale * 0.5)
        self.color = nn.Parameter(torch.randn(centres.shape[1], width) * scale * 0.15)
        # What a colour adds to mixtures that are so many quarters of another, and what all of those have in common.
        self.shares = nn.Parameter(torch.eye(width) * (1 - torch.arange(1, MIX_STEPS) / MIX_STEPS)[:, None, None])
        self.quarters = nn.Parameter(torch.zeros(MIX_STEPS - 1, width))
        self.register_buffer("centres", torch.from_numpy(centres).float() * 2 - 1, persistent=False)
        self.register_buffer("mixes", torch.tensor(MIXES).T, persistent=False)
        for name in ("char", "part", "style", "message", "color", "step", "background"):
            self.register_buffer(f"{name}_of", torch.from_numpy(getattr(NAMES, name)), persistent=False)

    def backgrounds(self):
        """Return the vectors of the cells that are nothing but background, (B, hidden); the palette comes first."""
        own = self.background + self.centres @ self.color
        return torch.cat([own[: len(COLORS)], self.mixtures(), own[len(COLORS) + len(MIXES) :]])

    def mixtures(self):
        """Return the vectors of the mixtures, (M, hidden): what is learnt of two colours holds for all between them."""
        near, far, quarters = self.mixes
        palette = self.background[: len(COLORS)] + self.centres[: len(COLORS)] @ self.color
        added = palette @ self.shares
        own = self.background[len(COLORS) : len(COLORS) + len(MIXES)]
        return own + added[quarters - 1, near] + added[MIX_STEPS - quarters - 1, far] + self.quarters[quarters - 1]

    def merged(self):
        """Return the table, float32 (VISION_VOCAB_SIZE, hidden)."""
        none = torch.zeros_like(self.colorless)  # index -1: the token does not name it
        background = self.backgrounds()
        table = torch.cat([background, none])[self.background_of] + torch.cat([self.step, none])[self.step_of]
        for name in ("char", "part", "style", "message"):
            table = table + torch.cat([getattr(self, name), none])[getattr(self, f"{name}_of")]
        colors = torch.cat([background[: len(COLORS)], none])[self.color_of]
        bare = (self.message_of >= 0) & (self.color_of < 0)
        table = table + colors + bare[:, None] * self.colorless
        return torch.cat([table, self.special])

    def cross_entropy(self, hidden, targets):
        """Return -log p of the targets (N,) given hidden states (N, hidden), without the table of all ids.

        Scores are sums over what a token names, so the sum over all tokens is one of products of short sums.
        """
        score = lambda table: hidden @ table.T  # noqa: E731
        char, part, style, said = score(self.char), score(self.part), score(self.style), score(self.message)
        background, step, colorless = score(self.backgrounds()), score(self.step), score(self.colorless)
        styles = {n: style[:, :n].logsumexp(1) for n in {p.num_styles for p in PARTS}}
        text = part + torch.stack([styles[p.num_styles] for p in PARTS], 1) + char.logsumexp(1, keepdim=True)
        colors = torch.cat([background[:, : len(COLORS)], colorless], 1).logsumexp(1, keepdim=True)
        messages = said.logsumexp(1, keepdim=True) + colors
        total = torch.cat([text, messages, step, background], 1).logsumexp(1)

        def own(scores, names):
            index = names[targets]
            return scores.gather(1, index.clamp(min=0)[:, None])[:, 0] * (index >= 0)

        parts = ((char, self.char_of), (part, self.part_of), (style, self.style_of), (said, self.message_of))
        parts += ((step, self.step_of), (background, self.background_of), (background, self.color_of))
        chosen = sum(own(scores, names) for scores, names in parts)
        bare = (self.message_of[targets] >= 0) & (self.color_of[targets] < 0)
        return total - chosen - colorless[:, 0] * bare
