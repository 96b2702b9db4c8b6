"""Decide what the engine does next: which pictures enter the token loop, and which are painted.

Pure policy: no torch, no clock, no models. The unit is one picture, `(request_id, image_index)`,
which goes waiting -> writing (a row of the prior's token loop) -> written -> painting -> gone.

Nothing starves: the token loop admits in order of arrival and never lets a later picture overtake,
painting takes the oldest written picture (a request's pictures go together, at most four of them),
and when both stages have work each gets about half of the time. With the components staged, a prior
phase stops admitting as soon as a picture is written, so that the paint phase always comes.

The token loop batches anything with anything, because reading the weights is what costs. Painting
batches pictures of one request only: a picture of 512 px keeps a large device busy by itself, and
mates from elsewhere would bring glyphs and references of other lengths, which rules out the fast
attention kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..types import GenerationRequest

Key = tuple[str, int]

# Rounds of the token loop between two denoise steps: few enough for a picture to keep moving.
MAX_PRIOR_TOKENS = 64
# How long a step lasts that only writes tokens, where a round takes less: a small model writes its
# tokens in hundreds of rounds, and each step brings events and messages.
PRIOR_STEP_S = 0.01
# Weight of the newest measurement in the running cost of a step.
COST_MEMORY = 0.25
# What chat template, grid sizes and markers may add to the bytes of a prompt.
TEMPLATE_TOKENS = 128
PREVIEW_TOKENS = 256


@dataclass(frozen=True)
class Limits:
    """Say how much may run at once.

    num_slots: rows of the token loop. kv_tokens: rows x longest row. decode_patches: 16 px patches
    painted together. A single picture may always run, whatever its size.
    resident: both stages' components are loaded, so that the stages may alternate.
    """

    num_slots: int = 8
    kv_tokens: int = 32768
    decode_patches: int = 4096
    resident: bool = True


@dataclass(frozen=True)
class Job:
    """Describe a picture as far as the policy needs it.

    kv_tokens: prompt and prior tokens, the length of its row. patches: its size in 16 px patches.
    """

    key: Key
    kv_tokens: int
    patches: int


@dataclass(frozen=True)
class Plan:
    """Say what one step does, in this order: admit, write tokens, start painting, denoise once."""

    admit: tuple[Key, ...] = ()
    num_prior_tokens: int = 0
    start: tuple[Key, ...] = ()
    denoise: bool = False


class Scheduler:
    """Hold the state of every picture and plan step by step."""

    def __init__(self, limits: Limits, *, paints: bool = True) -> None:
        self.limits, self.paints = limits, paints
        self.waiting: dict[Key, Job] = {}
        self.writing: dict[Key, Job] = {}
        self.written: dict[Key, Job] = {}
        self.painting: dict[Key, Job] = {}
        self._last_request = ""
        self._phase = "prior"
        self._cost_s: dict[str, float] = {}

    def __contains__(self, request_id: str) -> bool:
        return any(key[0] == request_id for key in self.keys())

    @property
    def has_work(self) -> bool:
        return any(True for _ in self.keys())

    def keys(self) -> Iterator[Key]:
        """Give every picture that is not finished."""
        for state in (self.waiting, self.writing, self.written, self.painting):
            yield from state

    def add(self, job: Job) -> None:
        """Queue a picture for the token loop."""
        self.waiting[job.key] = job

    def prior_written(self, key: Key) -> None:
        """Move a picture from the token loop to those waiting to be painted."""
        self.written[key] = self.writing.pop(key)

    def picture_painted(self, key: Key) -> None:
        """Forget a picture that is done."""
        self.painting.pop(key)

    def drop(self, request_id: str) -> None:
        """Forget every picture of a request, whatever its state."""
        for state in (self.waiting, self.writing, self.written, self.painting):
            for key in [key for key in state if key[0] == request_id]:
                del state[key]

    def measured(self, stage: str, seconds: float) -> None:
        """Take in what one token round ("prior") or one denoise step ("decode") took."""
        known = self._cost_s.get(stage, seconds)
        self._cost_s[stage] = known + COST_MEMORY * (seconds - known)

    def plan(self) -> Plan:
        """Plan one step and move the pictures it admits or starts."""
        if not self.limits.resident and self.paints:
            self._change_phase()
        admit = self._admit() if self._may_admit() else ()
        start = self._start() if self._may_paint() and not self.painting else ()
        return Plan(admit, self._num_prior_tokens(), start, denoise=bool(self.painting))

    def _change_phase(self) -> None:
        if self._phase == "prior" and self.written and not self.writing:
            self._phase = "decode"
        elif self._phase == "decode" and not self.written and not self.painting:
            self._phase = "prior"

    def _may_admit(self) -> bool:
        if self.limits.resident or not self.paints:
            return True
        return self._phase == "prior" and not self.written

    def _may_paint(self) -> bool:
        return self.paints and (self.limits.resident or self._phase == "decode")

    def _admit(self) -> tuple[Key, ...]:
        admitted = []
        for key, job in list(self.waiting.items()):
            rows = len(self.writing) + 1
            longest = max(other.kv_tokens for other in (job, *self.writing.values()))
            if rows > 1 and (
                rows > self.limits.num_slots or rows * longest > self.limits.kv_tokens
            ):
                break
            self.writing[key] = self.waiting.pop(key)
            admitted.append(key)
        return tuple(admitted)

    def _start(self) -> tuple[Key, ...]:
        if not self.written:
            return ()
        # The request painted last goes on first: its references are still in memory.
        request_ids = [request_id for request_id, _ in self.written]
        request_id = self._last_request if self._last_request in request_ids else request_ids[0]
        patches = 0
        for key in [key for key in self.written if key[0] == request_id]:
            patches += self.written[key].patches
            if not self.painting or patches <= self.limits.decode_patches:
                self.painting[key] = self.written.pop(key)
        self._last_request = request_id
        return tuple(self.painting)

    def _num_prior_tokens(self) -> int:
        if not self.writing:
            return 0
        if "prior" not in self._cost_s or (self.painting and "decode" not in self._cost_s):
            return 1
        step_s = self._cost_s["decode"] if self.painting else PRIOR_STEP_S
        rounds = round(step_s / max(self._cost_s["prior"], 1e-9))
        return max(1, min(rounds, MAX_PRIOR_TOKENS))


def num_patches(request: GenerationRequest) -> int:
    """Return the size of a request's pictures in 16 px patches."""
    return (request.height // 16) * (request.width // 16)


def row_length(request: GenerationRequest) -> int:
    """Bound the tokens of a request's row from above, without a tokeniser."""
    length = len(request.prompt.encode()) + TEMPLATE_TOKENS
    length += PREVIEW_TOKENS + (request.height // 32) * (request.width // 32)
    for image in request.source_images:
        # scaled to at least 512 px on the short side, then to at most 2048 px on the long one
        scale = max(1.0, 512 / min(image.size))
        scale = min(scale, 2048 / max(image.size))
        length += math.prod(math.ceil(side * scale / 32) for side in image.size)
    return length
