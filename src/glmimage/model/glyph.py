"""The glyph encoder: ByT5 reads the quoted texts, letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import T5EncoderModel

MAX_GLYPH_TOKENS = 2048  # of each text; the reference truncates there as well
KEPT_ENCODINGS = 8


class GlyphEncoder(nn.Module):
    """Encode the glyph texts of one prompt."""

    def __init__(self, text_encoder: T5EncoderModel, tokenizer: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self._known: dict[tuple[str, ...], Tensor] = {}

    def encode(self, glyph_texts: Sequence[str]) -> Tensor:
        """Return (T, E) in the encoder's dtype: each text read on its own, then concatenated.

        No text at all is read as one empty text, which is also the unconditional input. The newest
        encodings are kept: pictures of one request share theirs, and all share the empty one.
        """
        texts = tuple(glyph_texts)
        if texts not in self._known:
            while len(self._known) >= KEPT_ENCODINGS:
                del self._known[next(iter(self._known))]
            self._known[texts] = self._encode(texts)
        self._known[texts] = self._known.pop(texts)  # the newest stands last
        return self._known[texts]

    @torch.no_grad()
    def _encode(self, glyph_texts: Sequence[str]) -> Tensor:
        ids = self.token_ids(glyph_texts)
        longest = max(len(row) for row in ids)
        device = self.text_encoder.device
        pad = self.tokenizer.pad_token_id
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids], device=device)
        lengths = torch.tensor([len(row) for row in ids], device=device)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        hidden = self.text_encoder(padded, attention_mask=mask.long()).last_hidden_state
        return hidden[mask]

    def token_ids(self, glyph_texts: Sequence[str]) -> list[list[int]]:
        """Tokenise, with a leading pad token on every text when their number is even.

        The reference counts texts where it meant tokens; the model has only ever seen it so.
        """
        texts = list(glyph_texts) or [""]
        ids = self.tokenizer(texts, max_length=MAX_GLYPH_TOKENS, truncation=True).input_ids
        lead = [self.tokenizer.pad_token_id] * ((len(texts) + 1) % 2)
        return [lead + row for row in ids]
