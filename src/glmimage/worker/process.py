"""The worker process: load the model, paint what is claimed, leave in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from ..config import Settings
from ..errors import GlmImageError
from ..jobs.records import Stage
from ..lora import check_lora_dir
from ..policy.picture_check import PictureChecker
from ..types import Failed
from .link import Begin, Drop, Message, Profile, Stop, StoreLink
from .painter import Painter

CLOSE_S = 10.0
"""For jobs whose pictures are made and only have to be stored."""
GRACE_SHARE = 0.6
"""Of the time a stop may take, for finishing what is being painted."""
STALLED_S = 3600.0
"""A step of the engine that takes longer will never end."""
log = logging.getLogger(__name__)


def run_worker(
    settings: Settings,
    stages: Sequence[Stage] = ("prior", "decode"),
    inbox: SimpleQueue[Message] | None = None,
    checker: PictureChecker | None = None,
) -> int:
    """Work until SIGTERM, SIGINT or a Stop in `inbox`, and return the exit code.

    Raise GlmImageError when the model or the store cannot be opened.
    """
    check_lora_dir(settings.lora_dir)
    inbox = inbox or SimpleQueue()
    profile = Profile(tuple(stages), settings.model)
    link = StoreLink(settings, profile, inbox, checker)
    try:
        link.open()
        started = time.monotonic()
        worker = Worker(settings, profile, link, inbox)
        log.info("The model was loaded in %.1f s.", time.monotonic() - started)
        previous = _stop_by_message(inbox)
        try:
            return worker.run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    finally:
        link.close(CLOSE_S)


def _stop_by_message(inbox: SimpleQueue[Message]) -> dict[int, Any]:
    """Turn the first signal into an orderly end, the second into a quick one."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        inbox.put(Stop(at_once=bool(asked)))
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        return {}  # whoever runs a worker beside himself stops it by message
    return {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}


class Worker:
    """Own the engine; everything that may wait for the store is the link's."""

    def __init__(
        self, settings: Settings, profile: Profile, link: StoreLink, inbox: SimpleQueue[Message]
    ) -> None:
        self.settings, self.link, self.inbox = settings, link, inbox
        self._stop_at: float | None = None
        self._last_step = time.monotonic()
        stages, revision, info = _load(settings, profile.stages)
        from ..engine.engine import Engine
        from ..memory import gpu_memory

        paints = "decode" in profile.stages
        self.painter = Painter(Engine(stages, paints=paints), link, paints=paints)
        link.checker.load()  # now, and not with a first picture
        link.load_prompt = stages.checkpoint.load_prompt
        link.report.gpu_memory = partial(gpu_memory, stages.device)
        link.start_claiming(revision, info)

    def run(self) -> int:
        """Paint until told to stop, and until what is in hand is finished or handed back."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        try:
            return self._paint()
        except Exception as error:
            self._fail_all(error)
            raise

    def _paint(self) -> int:
        while True:
            self._last_step = time.monotonic()
            self._take_messages()
            if self._stop_at is not None:
                self._hand_back_late()
                if not self.painter.in_hand:
                    return 0
            if self.painter.engine.has_work:
                self.painter.step()

    def _take_messages(self) -> None:
        """Deal with what has come; without work, wait for something."""
        idle = not self.painter.engine.has_work and self._stop_at is None
        while True:
            try:
                message = self.inbox.get(timeout=STALLED_S / 4 if idle else 0)
            except Empty:
                return
            idle = False
            if isinstance(message, Begin):
                if self._stop_at is None:
                    self.painter.begin(message)
                else:
                    self.link.send(message.claim.job.id, "hand back")
            elif isinstance(message, Drop):
                self.painter.drop(message.job_id)
            else:
                self._stop(at_once=message.at_once)

    def _stop(self, *, at_once: bool) -> None:
        self.link.stop_claiming()
        grace_s = 0.0 if at_once else GRACE_SHARE * self.settings.stop_timeout_s
        self._stop_at = time.monotonic() + grace_s

    def _hand_back_late(self) -> None:
        """Hand back what cannot be finished in time; its prior is saved, its seed the same."""
        assert self._stop_at is not None
        left_s = self._stop_at - time.monotonic()
        for job_id in list(self.painter.in_hand):
            if self.painter.seconds_left(job_id) > left_s:
                self.painter.drop(job_id)
                self.link.send(job_id, "hand back")

    def _fail_all(self, error: Exception) -> None:
        """Count the attempt: a job that ends every worker must not go round for ever."""
        for job_id in self.painter.in_hand:
            reason = f"The worker ended with {type(error).__name__}: {error}."
            self.link.send(job_id, Failed(job_id, GlmImageError(reason)))

    def _watch(self) -> None:
        """End a process whose engine hangs; the leases run out, and others take its jobs."""
        while time.monotonic() - self._last_step < STALLED_S:
            time.sleep(STALLED_S / 20)
        log.critical("The engine has not moved for %g s; the worker ends.", STALLED_S)
        os._exit(1)


def _load(settings: Settings, stages: Sequence[Stage]) -> tuple[Any, str, dict[str, Any]]:
    """Load the model; return its stages, its revision and what to tell of it."""
    from ..loading.hub import resolve_model
    from ..stages import Stages
    from .revision import model_revision

    folder = resolve_model(settings.model)
    loaded = Stages.load(
        str(folder),
        None if settings.device == "auto" else settings.device,
        None if settings.dtype == "auto" else settings.dtype,
        settings.memory,
        lossy=settings.lossy,
        fast=settings.fast,
    )
    log.info("Memory mode %s.", loaded.plan)
    if "prior" in stages or not loaded.plan.resident:
        loaded.prior()
    if "decode" in stages and loaded.plan.resident:
        loaded.decode()
    dtypes = loaded.dtypes
    numerics = [loaded.device.type, *map(str, (dtypes.prior, dtypes.decode, dtypes.products))]
    info = {
        "device": str(loaded.device),
        "dtypes": numerics[1:3],
        "memory": loaded.plan.mode,
        "process_id": os.getpid(),
    }
    if settings.lossy:  # other pictures: no stored one of the exact model may stand for them
        numerics, info["lossy"] = [*numerics, settings.lossy], settings.lossy
    return loaded, model_revision(Path(folder), *numerics), info
