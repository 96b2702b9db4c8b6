"""Serve many requests with one model: add them at any time, step, take the events."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from PIL import Image

from ..picture import make_pictures
from ..stages import Stages
from ..types import (
    DenoiseStep,
    Event,
    Failed,
    GenerationRequest,
    PictureReady,
    PriorReady,
    Queued,
    SmallGridReady,
)
from .figures import Figures
from .runner import Runner
from .scheduler import Job, Limits, Scheduler, num_patches, row_length

# Patches worth painting together where a device has room for more: four pictures of 512 px.
CUDA_DECODE_PATCHES = 4096


class Engine:
    """Make the pictures of many requests; not for several threads at once.

    A picture does not depend on who shares a step with it. A request that fails ends with Failed,
    and its neighbours go on.
    """

    def __init__(
        self, stages: Stages, limits: Limits | None = None, *, paints: bool = True
    ) -> None:
        """Take the model. paints: False stops at the priors; `abort` frees what is written."""
        plan = stages.plan
        patches = CUDA_DECODE_PATCHES if stages.device.type == "cuda" else 0
        self.scheduler = Scheduler(
            limits
            or Limits(kv_tokens=plan.kv_tokens, decode_patches=patches, resident=plan.resident),
            paints=paints,
        )
        self.runner = Runner(stages, self.scheduler.limits, self.scheduler.measured)
        self._told: list[Event] = []

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add_request(
        self,
        request: GenerationRequest,
        request_id: str | None = None,
        priors: Sequence[PriorReady] = (),
    ) -> str:
        """Queue a request and return its id; pictures that have a prior already skip that stage."""
        request_id = request_id if request_id is not None else uuid.uuid4().hex
        if request_id in self.scheduler:
            raise ValueError(f"request {request_id!r} is already being worked on")
        written = {prior.image_index: prior for prior in priors}
        for picture in make_pictures(request_id, request):
            picture.prior = written.get(picture.image_index)
            self.runner.pictures[picture.key] = picture
            length, patches = row_length(picture.request), num_patches(picture.request)
            self.scheduler.add(Job(picture.key, length, patches))
        self._told.append(Queued(request_id))
        return request_id

    def take_figures(self) -> Figures:
        """Return what the engine has done since the last call."""
        return self.runner.figures.take()

    def step(self) -> list[Event]:
        """Do one step of each stage that has work, and return what happened."""
        events, self._told = self._told, []
        events += self.runner.run(self.scheduler.plan())
        for event in events:
            if isinstance(event, PriorReady):
                self.scheduler.prior_written((event.request_id, event.image_index))
            elif isinstance(event, PictureReady):
                self.scheduler.picture_painted((event.request_id, event.image_index))
            elif isinstance(event, Failed):
                self.scheduler.drop(event.request_id)
            if event.request_id not in self.scheduler:
                self.runner.drop(event.request_id)
        return events

    def preview(self, event: SmallGridReady | PriorReady | DenoiseStep) -> Image.Image | None:
        """Show a picture before it is painted: its tokens by one pass without guidance, or what
        the denoise step that has just been done sees it become.

        None when the request is gone, or tokens are to be shown and the decoder is not in memory
        (`--memory staged`). It may raise whatever painting may raise; the request itself is not
        touched.
        """
        key = (event.request_id, event.image_index)
        if isinstance(event, DenoiseStep):
            return self.runner.show_expected(key)
        grid = event.grid if isinstance(event, SmallGridReady) else event.large_grid
        return self.runner.preview(key, grid, event.prior_token_ids)

    def abort(self, request_id: str) -> bool:
        """Forget a request and free all it holds, at once; False when there is no such request."""
        known = request_id in self.scheduler
        self.scheduler.drop(request_id)
        self.runner.drop(request_id)
        self._told = [event for event in self._told if event.request_id != request_id]
        return known
