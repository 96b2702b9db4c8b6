"""Draw tokens from logits, with random numbers that belong to one image and nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointInvalid
from .layers import on_device

GENERATION_FILE = "vision_language_encoder/generation_config.json"
TIES = 14
BLOCK = 16
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TOKEN_STREAM = 0x70726F722D746F6B  # "pror-tok": keeps these numbers apart from image_seed()'s

# Settings of transformers' generate() that would change the tokens, with the value that does not.
_NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "typical_p": 1.0,
    "min_p": 0.0,
    "top_h": 0.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "bad_words_ids": None,
    "sequence_bias": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
}


@dataclass(frozen=True)
class SamplingConfig:
    """The checkpoint's own way to draw tokens; top_k 0 keeps all."""

    temperature: float = 1.0
    top_k: int = 50  # what transformers takes when generation_config.json is silent
    top_p: float = 1.0
    suppress_tokens: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], file: str = GENERATION_FILE) -> SamplingConfig:
        """Read generation_config.json; raise CheckpointInvalid for what would not be honoured."""
        for key, neutral in _NEUTRAL.items():
            if data.get(key, neutral) not in (neutral, None):
                raise _invalid(file, key, f"{data[key]!r} is not supported")
        suppressed = _read(data, "suppress_tokens", ())
        if not isinstance(suppressed, (list, tuple)) or not all(type(t) is int for t in suppressed):
            raise _invalid(file, "suppress_tokens", "expected a list of token ids")
        config = cls(
            _number(data, "temperature", cls.temperature, file),
            int(_number(data, "top_k", cls.top_k, file)),
            _number(data, "top_p", cls.top_p, file),
            tuple(suppressed),
        )
        if config.temperature <= 0:
            raise _invalid(file, "temperature", f"{config.temperature} is not above 0")
        if config.top_k < 0:
            raise _invalid(file, "top_k", f"{config.top_k} is below 0")
        if not 0 <= config.top_p <= 1:
            raise _invalid(file, "top_p", f"{config.top_p} is not within 0 and 1")
        return config

    def suppress_mask(self, vocab_size: int, num_codes: int) -> Tensor:
        """Return bool (vocab_size,), true for ids that must not be drawn.

        Besides `suppress_tokens` these are all ids that are no codebook entry, 0 .. num_codes - 1:
        a grid holds codes only, its end is known, and the decoder has no embedding for others.
        """
        mask = torch.arange(vocab_size) >= num_codes
        inside = [token for token in self.suppress_tokens if 0 <= token < vocab_size]
        mask[inside] = True
        return mask


def sample(
    logits: Tensor,
    temperature: Sequence[float] | Tensor,
    top_p: Sequence[float] | Tensor,
    top_k: int,
    uniforms: Sequence[float] | Tensor,
) -> Tensor:
    """Draw one token id (B,) a row of logits (B, V), by inverse CDF in float32.

    temperature, top_p, uniforms: one a row, on the CPU; uniforms in [0, 1). What must not be drawn
    has a logit of -inf. The filters are those of transformers, in its order: temperature, top-k,
    top-p.
    Likeliest tokens come first in the CDF, so rounding moves no boundary of a sure choice.
    temperature 0 takes the likeliest token.
    """
    probabilities, ids = sorted_distribution(logits, temperature, top_p, top_k)
    cdf = probabilities.cumsum(-1)
    u = _column(uniforms, logits)
    # a double just below 1 is 1 in float32: never go past the last token that is left
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    index = (cdf <= u * cdf[:, -1:]).sum(-1, keepdim=True).minimum(last)
    return ids.gather(-1, index)[:, 0]


def sorted_distribution(
    logits: Tensor,
    temperature: Sequence[float] | Tensor,
    top_p: Sequence[float] | Tensor,
    top_k: int,
) -> tuple[Tensor, Tensor]:
    """Return what `sample` draws from: (weights, ids), each (B, V) or fewer, likeliest first.

    Weights of removed tokens are 0; the others are not scaled up to sum to 1 again. On a CPU only
    what top-k can keep is sorted, a few more than k, but for rows where as many tie with the k-th;
    elsewhere knowing about ties would mean waiting for the device.
    """
    heat = _column(temperature, logits)
    removed = _column([1 - p for p in _floats(top_p)], logits)
    if not 0 < top_k < logits.shape[-1] - TIES or logits.device.type != "cpu":
        return _filtered(*logits.sort(dim=-1, stable=True), heat, removed, top_k)
    best, ids = _best(logits, top_k + TIES)
    tied = _heated(best[:, -1:], heat) >= _heated(best[:, top_k - 1, None], heat)
    weights, ids = _filtered(best.flip(-1), ids.flip(-1), heat, removed, top_k)
    if not tied.any():
        return weights, ids
    rows = tied[:, 0]  # the others keep what they have: a row gets the same in any company
    all_weights, all_ids = (torch.zeros_like(logits, dtype=t) for t in (torch.float32, torch.int64))
    all_weights[:, : weights.shape[1]], all_ids[:, : ids.shape[1]] = weights, ids
    all_weights[rows], all_ids[rows] = _filtered(
        *logits[rows].sort(dim=-1, stable=True), heat[rows], removed[rows], top_k
    )
    return all_weights, all_ids


def _heated(logits: Tensor, heat: Tensor) -> Tensor:
    """Divide by the temperature; where it is 0 the likeliest token is taken anyway."""
    return logits.float() / heat.masked_fill(heat == 0, 1.0)


def _filtered(
    ascending: Tensor, ids: Tensor, heat: Tensor, removed_share: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """Return weights and ids, likeliest first, of logits (B, N) that are sorted and their ids.

    Summed up as transformers does, from the least likely: the same token falls on the same side of
    top_p. removed_share: 1 - top_p, (B, 1).
    """
    scores = _heated(ascending, heat)
    if 0 < top_k < scores.shape[-1]:
        # tokens as good as the k-th stay, as in transformers
        scores = scores.masked_fill(scores < scores[:, -top_k, None], -torch.inf)
    probabilities = scores.softmax(-1)
    removed = probabilities.cumsum(-1) <= removed_share
    removed |= heat == 0
    removed[:, -1] = False
    return probabilities.masked_fill(removed, 0.0).flip(-1), ids.flip(-1)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` best scores of each row, best first, and their ids, as topk does.

    Of large vocabularies in two steps, which takes a third of the time: what is among the best
    lies in a block whose best is among the best of all blocks. Block j holds every id that is j
    more than a multiple of the number of blocks; the last ids, that fill no row of blocks, are
    looked at one by one.
    """
    num_blocks, rest = divmod(scores.shape[-1], BLOCK)
    if num_blocks < 4 * count:
        return scores.topk(count)
    in_blocks = scores[:, : num_blocks * BLOCK].unflatten(-1, (BLOCK, num_blocks))
    blocks = in_blocks.amax(1).topk(count, sorted=False).indices
    offsets = num_blocks * torch.arange(BLOCK, device=scores.device)
    ids = (blocks[:, None] + offsets[:, None]).flatten(1)
    if rest:
        last = torch.arange(num_blocks * BLOCK, scores.shape[-1], device=scores.device)
        ids = torch.cat([ids, last.expand(len(ids), -1)], dim=1)
    best, where = scores.gather(1, ids).topk(count)
    return best, ids.gather(1, where)


def _column(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    # rounded to float32 once, from double, as a Python scalar in a tensor expression is
    return on_device(_floats(values), like.device, torch.float32)[:, None]


def _floats(values: Sequence[float] | Tensor) -> list[float]:
    return values.tolist() if isinstance(values, Tensor) else list(values)


class RandomStream:
    """All random numbers of one image, from its seed alone; no global state is read or written.

    Counter-based: `uniform(position)` may be asked in any order, any number of times, in any
    process, so a batch, a restart or another machine draws the same tokens.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._key = _mix((seed ^ _TOKEN_STREAM) & _MASK)

    def uniform(self, position: int) -> float:
        """Return the number in [0, 1) of the token at `position`, a multiple of 2**-24.

        SplitMix64 with the position as its counter (Steele, Lea, Flood, 2014); 24 bits are what
        float32 holds.
        """
        return (_mix((self._key + (position + 1) * _GOLDEN) & _MASK) >> 40) / 2**24

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Return float32 normal noise on the CPU: what diffusers draws for the same seed there."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _read(data: Mapping[str, Any], key: str, default: Any) -> Any:
    value = data.get(key)
    return default if value is None else value


def _number(data: Mapping[str, Any], key: str, default: float, file: str) -> float:
    value = _read(data, key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _invalid(file, key, f"expected a number, found {value!r}")
    return value


def _invalid(file: str, key: str, problem: str) -> CheckpointInvalid:
    return CheckpointInvalid(f"{file}: {key}: {problem}.", hint="Correct or remove the setting.")
