"""The painting thread's half: the engine, and what its events mean for the jobs in hand."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from ..engine.engine import Engine
from ..jobs import Prior
from ..telemetry.logs import while_about
from ..types import (
    DenoiseStep,
    Event,
    Failed,
    GenerationRequest,
    PictureReady,
    PriorProgress,
    PriorReady,
    SmallGridReady,
)
from .link import Begin
from .outcome import Preview, num_previews
from .report import Report, StageDone, Written

REPORT_S = 0.5
"""The engine's figures are passed on so often, and when nothing is in hand; a step takes ms."""
PRIOR_SHARE = 0.3
"""Of a job's progress; the rest is denoise."""
PRIOR_LOG_STEP = 0.1
log = logging.getLogger(__name__)


class Link(Protocol):
    """What the painter tells the store's half."""

    def tell(self, job_id: str, message: str, fraction: float) -> None: ...

    def send(self, job_id: str, item: object) -> None: ...

    @property
    def report(self) -> Report: ...


@dataclass
class _Progress:
    request: GenerationRequest
    num_tokens: dict[int, tuple[int, int]] = field(default_factory=dict)
    prior_since: tuple[float, int] | None = None
    """When tokens were first told of, and how many."""
    logged: float = 0.0
    priors: dict[int, Prior] = field(default_factory=dict)
    saved: bool = False
    steps: dict[int, int] = field(default_factory=dict)
    num_previews: int = 0
    """Of each picture."""
    shown: Counter[int] = field(default_factory=Counter)
    """Previews that a picture has had, or has failed to have."""
    denoise_started: float | None = None
    began: float = field(default_factory=time.time)
    painting_since: dict[int, float] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        return self.request.num_images * self.request.num_inference_steps

    @property
    def fraction(self) -> float:
        if self.steps or self.saved:
            return PRIOR_SHARE + (1 - PRIOR_SHARE) * sum(self.steps.values()) / self.num_steps
        written = sum(done / total for done, total in self.num_tokens.values())
        return PRIOR_SHARE * written / self.request.num_images

    def prior_left_s(self) -> float:
        """Estimate from the tokens told of since the first; pictures not begun are as long."""
        if self.prior_since is None:
            return inf
        since, first = self.prior_since
        done = sum(done for done, _ in self.num_tokens.values())
        if done == first:
            return inf
        total = self.request.num_images * max(total for _, total in self.num_tokens.values())
        return (time.monotonic() - since) / (done - first) * (total - done)

    def denoise_left_s(self) -> float:
        done = sum(self.steps.values())
        if not done or self.denoise_started is None:
            return inf
        return (time.monotonic() - self.denoise_started) / done * (self.num_steps - done)


class Painter:
    """Feed the engine and pass on what it makes. paints: whether the decode stage is ours."""

    def __init__(self, engine: Engine, link: Link, *, paints: bool = True) -> None:
        self.engine, self.link, self.paints = engine, link, paints
        self.in_hand: dict[str, _Progress] = {}
        self._step_began = time.time()
        self._reported = time.monotonic()

    def begin(self, message: Begin) -> None:
        """Take a job on."""
        job_id = message.claim.job.id
        progress = self.in_hand[job_id] = _Progress(message.request)
        progress.saved = bool(message.priors)
        progress.num_previews = num_previews(message.claim.job)
        priors = [
            PriorReady(job_id, prior.image_index, prior.large_grid, prior.prior_token_ids)
            for prior in message.priors
        ]
        self.engine.add_request(message.request, job_id, priors)

    def drop(self, job_id: str) -> None:
        """Forget a job."""
        self.in_hand.pop(job_id, None)
        self.engine.abort(job_id)
        self._report()

    def step(self) -> None:
        """Let the engine do one step, and pass its events on."""
        self._step_began = time.time()
        events = self.engine.step()
        for event in events:
            if event.request_id in self.in_hand:
                self._handle(event)
        steps: dict[str, list[DenoiseStep]] = {}
        for event in events:
            if isinstance(event, DenoiseStep) and event.request_id in self.in_hand:
                steps.setdefault(event.request_id, []).append(event)
        for together in steps.values():
            self._denoise_step(together[0], len(together))
        for job_id in {event.request_id for event in events} & self.in_hand.keys():
            if job_id not in self.engine.scheduler:
                del self.in_hand[job_id]
        if not self.in_hand or time.monotonic() - self._reported >= REPORT_S:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        self.link.report.take(self.engine.take_figures())

    def seconds_left(self, job_id: str) -> float:
        """Estimate how long a job is still worked on; inf before there is a pace to go by."""
        progress = self.in_hand[job_id]
        return progress.denoise_left_s() if self.paints else progress.prior_left_s()

    def _handle(self, event: Event) -> None:
        job_id = event.request_id
        progress = self.in_hand[job_id]
        if isinstance(event, PriorProgress):
            self._prior_progress(event, progress)
        elif isinstance(event, SmallGridReady):
            self._preview(event, progress)
        elif isinstance(event, PriorReady):
            if not progress.request.source_images:  # no preview of an edit without its sources
                self._preview(event, progress)
            self._prior_ready(event, progress)
        elif isinstance(event, DenoiseStep):
            progress.steps[event.image_index] = event.step
            progress.painting_since.setdefault(event.image_index, self._step_began)
            progress.denoise_started = progress.denoise_started or time.monotonic()
            if event.step < event.num_inference_steps:
                self._preview(event, progress)
        elif isinstance(event, PictureReady):
            self._picture_ready(event, progress)
        elif isinstance(event, Failed):
            self.link.send(job_id, event)

    def _picture_ready(self, event: PictureReady, progress: _Progress) -> None:
        """Pass the picture on, and how long it was denoised and decoded."""
        now, index = time.time(), event.image_index
        middle = now - event.timings.get("decode_s", 0.0)
        began = min(middle, progress.painting_since.get(index, middle))
        for stage, times in (("denoise", (began, middle)), ("decode", (middle, now))):
            self.link.send(event.request_id, StageDone(stage, index, *times))
        self.link.send(event.request_id, event)

    def _prior_progress(self, event: PriorProgress, progress: _Progress) -> None:
        progress.num_tokens[event.image_index] = (event.num_tokens, event.total_tokens)
        progress.prior_since = progress.prior_since or (time.monotonic(), event.num_tokens)
        fraction = progress.fraction / PRIOR_SHARE
        if fraction >= progress.logged + PRIOR_LOG_STEP:
            progress.logged = fraction
            message = f"prior {round(100 * fraction)} %"
            self.link.tell(event.request_id, message, progress.fraction)

    def _preview(
        self, event: SmallGridReady | PriorReady | DenoiseStep, progress: _Progress
    ) -> None:
        """Make a preview when one is due; a request never fails for it.

        The first is due as soon as there is something to see, the others in equal parts of the
        denoise loop.
        """
        index, steps = event.image_index, progress.request.num_inference_steps
        number, wanted = progress.shown[index], progress.num_previews
        step = event.step if isinstance(event, DenoiseStep) else 0
        if number >= wanted or step * wanted < number * steps:
            return
        try:
            image = self.engine.preview(event)
        except Exception:
            with while_about(event.request_id):
                log.exception("a preview of job %s failed", event.request_id)
        else:
            if image is None:
                return  # what comes next may be shown
            self.link.send(event.request_id, Preview(index, number, image))
        progress.shown[index] += 1

    def _prior_ready(self, event: PriorReady, progress: _Progress) -> None:
        if progress.saved:
            return  # it came with the job
        done = StageDone("prior", event.image_index, progress.began, time.time())
        self.link.send(event.request_id, done)
        assert event.counts is not None
        prior = Prior(event.image_index, event.large_grid, event.prior_token_ids)
        progress.priors[event.image_index] = prior
        if len(progress.priors) == progress.request.num_images:
            progress.saved = True
            written = Written(_in_order(progress.priors), event.counts)
            self.link.send(event.request_id, written)
            if not self.paints:
                self.drop(event.request_id)

    def _denoise_step(self, event: DenoiseStep, num_together: int) -> None:
        """Log one line for the pictures that are painted together."""
        progress = self.in_hand[event.request_id]
        message = f"step {event.step}/{event.num_inference_steps}"
        if num_together < progress.request.num_images:
            message = f"picture {event.image_index + 1}/{progress.request.num_images}: {message}"
        self.link.tell(event.request_id, message, progress.fraction)


def _in_order(priors: Mapping[int, Prior]) -> tuple[Prior, ...]:
    return tuple(priors[index] for index in sorted(priors))
