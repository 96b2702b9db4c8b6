"""The worker's line to the store: an event loop in a thread of its own, which torch cannot starve.

It claims, keeps the leases alive, brings references, writes logs, and lets each job end. What
concerns the engine goes to the painting thread as messages; see `Begin`, `Drop` and `Stop`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import uvloop

from ..config import Settings
from ..errors import GlmImageError
from ..evaluation.judge import Reads
from ..files import FileStore, open_file_store
from ..jobs import Claim, JobStore, Prior, Stage, StoreUnavailable
from ..policy.picture_check import PictureChecker
from ..telemetry.logs import while_about
from ..telemetry.tracing import Values, open_tracer
from ..types import GenerationRequest, TokenCounts
from .job_in_hand import JobInHand
from .report import Report

if TYPE_CHECKING:
    from ..prompt import PromptEncoder

BEATS_PER_LEASE = 5
SEEN_EVERY_S = 2.0
LOG_EVERY_S = 0.4
CANCEL_PAUSE_S = 0.03
CLAIM_PAUSE_S = 0.01
"""What has been claimed is begun before more is asked for."""
WAIT_S = 10.0
PAUSE_S = 1.0
"""Before the store is asked again after it has failed."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begin:
    """Have the engine make a job's pictures; those that have a prior are painted at once."""

    claim: Claim
    request: GenerationRequest
    priors: tuple[Prior, ...]


@dataclass(frozen=True)
class Drop:
    """Have the engine forget a job; it is cancelled, or another worker's by now."""

    job_id: str


@dataclass(frozen=True)
class Stop:
    """Finish or hand back what is in hand, and end. at_once: hand back."""

    at_once: bool = False


Message = Begin | Drop | Stop


@dataclass
class Profile:
    """Say what the worker is; it claims once `revision` is known."""

    stages: tuple[Stage, ...]
    model: str
    revision: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
    id: str = field(
        default_factory=lambda: f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    )


class StoreLink:
    """Run the loop; every method may be called from the painting thread."""

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        inbox: SimpleQueue[Message],
        checker: PictureChecker | None = None,
    ) -> None:
        self.settings, self.profile, self.inbox = settings, profile, inbox
        self.checker = checker or PictureChecker(settings.nsfw_threshold)
        self.load_prompt: Callable[[], PromptEncoder] | None = None
        self._prompt_encoder: PromptEncoder | None = None
        self._reader: Reads | None = None
        self.report = Report(self.checker)
        self.tracer = open_tracer(settings.traces_url, "glmimage-worker")
        self.store: JobStore
        self.files: FileStore
        self.in_hand: dict[str, JobInHand] = {}
        self._entries: list[tuple[str, str, Any]] = []
        self._progress: dict[str, float] = {}
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store-link")
        self._duties: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self._asked: asyncio.Task[list[Claim]] | None = None
        self._unreceived = False
        """Whether jobs may be claimed for us that are not in hand."""
        self._closing = False

    # for the painting thread

    def load_reader(self) -> Reads:
        """Return what reads pictures, loaded once; raise GlmImageError where it is missing."""
        if self._reader is None:
            from ..evaluation.reading import Reader

            self._reader = Reader()
        return self._reader

    def open(self) -> None:
        """Open the stores and report the worker alive; raise what they raise."""
        self._thread.daemon = True
        self._thread.start()
        self._call(self._open()).result()

    def start_claiming(self, revision: str, info: Mapping[str, Any]) -> None:
        """Report the model as loaded, and take work from now on."""
        self._call(self._start(revision, info)).result()

    def count_tokens(self, request: GenerationRequest) -> TokenCounts | None:
        """Count what the prior reads and writes for a picture whose prior is given.

        Only for the thread that finishes pictures. The encoder is read at the first call, and is
        not the painting thread's, which must not be used by two at once; None where there is none.
        A checkpoint that is gone from the disk costs the picture its counts, not itself.
        """
        if self._prompt_encoder is None:
            if self.load_prompt is None:
                return None
            try:
                self._prompt_encoder = self.load_prompt()
            except GlmImageError as error:
                log.warning("Tokens cannot be counted: %s", error)
                return None
        size = request.height, request.width
        return self._prompt_encoder.encode(request.prompt, *size, request.source_images).counts

    def tell(self, job_id: str, message: str, fraction: float) -> None:
        """Add to a job's log and note how far it is, 0 to 1; written with others a little later."""
        self._loop.call_soon_threadsafe(self._note, job_id, message, fraction)

    def send(self, job_id: str, item: object) -> None:
        """Give a job in hand what the engine has made of it; see `JobInHand`."""
        self._loop.call_soon_threadsafe(self._send, job_id, item)

    def stop_claiming(self) -> None:
        """Take no more work."""
        self._loop.call_soon_threadsafe(self._stop_claiming)

    def close(self, timeout_s: float) -> bool:
        """Wait for the jobs that are being finished, then leave; False when some were left."""
        try:
            return self._call(self._close(timeout_s)).result(timeout_s + 5)
        except TimeoutError:
            return False
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # in the loop

    async def _open(self) -> None:
        self.files = open_file_store(self.settings.files_address)
        self.store = await JobStore.open(
            self.settings.store_url, direct_url=self.settings.database_direct_url
        )
        self._begin_duty("report", self._report_alive, SEEN_EVERY_S)

    async def _start(self, revision: str, info: Mapping[str, Any]) -> None:
        self.profile.revision, self.profile.info = revision, info
        with suppress(StoreUnavailable):  # a store that is away just now is told in a moment
            await self._report_alive()
        lease_s = self.settings.lease_s
        self._room.set()
        self._begin_duty("heartbeat", self._beat, lease_s / BEATS_PER_LEASE)
        self._begin_duty("cancel", self._watch_cancel, CANCEL_PAUSE_S)
        self._begin_duty("log", self.write_logs, LOG_EVERY_S)
        self._begin_duty("claim", self._claim, CLAIM_PAUSE_S)
        if self.settings.health_file is not None:  # whether the store answers or not
            self._begin_duty("health", self._touch, SEEN_EVERY_S)
        # the second round comes as soon as a worker's silence tells something, see ClockWatch
        self._begin_duty("order", self._keep_order, min(lease_s / 5 + 2.0, lease_s / 2))

    def _begin_duty(self, name: str, duty: Any, every_s: float) -> None:
        self._duties.append(self._loop.create_task(self._repeat(duty, every_s), name=name))

    async def _repeat(self, duty: Any, every_s: float) -> None:
        while True:
            try:
                await duty()
            except GlmImageError as error:
                log.warning("%s", error)
                await asyncio.sleep(PAUSE_S)
            except Exception:
                log.exception("a duty of the worker failed")
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(every_s)

    async def _report_alive(self) -> None:
        profile = self.profile
        await self.store.worker_seen(
            profile.id,
            profile.stages,
            profile.model,
            profile.revision,
            ready=bool(profile.revision),
            started_at=profile.started_at,
            info={
                **profile.info,
                "num_jobs": len(self.in_hand),
                "figures": self.report.snapshot(len(self.in_hand)),
            },
        )

    async def _touch(self) -> None:
        assert self.settings.health_file is not None
        await asyncio.to_thread(self.settings.health_file.touch)

    async def _claim(self) -> None:
        if self._unreceived:
            held = [job.claim for job in self.in_hand.values()]
            await self.store.hand_back_others(self.profile.id, held)
            self._unreceived = False
        await self._room.wait()
        room = self.settings.worker_jobs - len(self.in_hand)
        if room <= 0:
            self._room.clear()
            return
        profile = self.profile
        found = await self.store.wait_for_work(profile.stages, WAIT_S, profile.revision)
        if not found or not self._room.is_set():
            return
        began = time.time()
        self._unreceived = True
        self._asked = self._loop.create_task(
            self.store.claim(
                profile.id, profile.stages, room, self.settings.lease_s, profile.revision
            )
        )
        # who waits for a write may leave, but the write goes on: `_close` waits for it
        claims = await asyncio.shield(self._asked)
        if self._closing:
            return  # and hand them back
        self._unreceived = False
        if not claims:  # another worker was quicker, or what waits is of a key at its limit
            await asyncio.sleep(0.1)
        for claim in claims:
            job = claim.job
            values: Values = {"attempt": claim.attempt, "worker": profile.id, "stage": job.stage}
            self.tracer.record("claim", job.trace_context, began, time.time(), values)
            self._take(claim)

    def _take(self, claim: Claim) -> None:
        job_id = claim.job.id
        if job_id in self.in_hand:  # its lease ran out, and it came back to us
            self.drop(job_id)
        job = self.in_hand[job_id] = JobInHand(self, claim)
        job.task = self._loop.create_task(job.tend(), name=f"job {job_id}")
        job.task.add_done_callback(lambda _: self._left(job))

    def _left(self, job: JobInHand) -> None:
        if self.in_hand.get(job.claim.job.id) is job:
            del self.in_hand[job.claim.job.id]
        if not self._closing:
            self._room.set()

    def drop(self, job_id: str) -> None:
        """Let go of a job that is not ours any more."""
        job = self.in_hand.pop(job_id, None)
        if job is not None:
            self.inbox.put(Drop(job_id))
            if job.task is not None and not job.leaving:
                job.task.cancel()

    async def _beat(self) -> None:
        claims = [job.claim for job in self.in_hand.values()]
        if claims:
            beat = await self.store.heartbeat(claims, self.settings.lease_s)
            for claim in claims:
                held = self.in_hand.get(claim.job.id)
                # one that is about to end may have ended while the heartbeat was on its way
                ours = held is not None and held.claim is claim and not held.leaving
                if claim.job.id in beat.lost and ours:
                    with while_about(claim.job.id, claim.job.trace_context):
                        log.warning("Job %s is another worker's by now.", claim.job.id)
                    self.drop(claim.job.id)

    async def _watch_cancel(self) -> None:
        for job_id in await self.store.wait_for_cancel(self.profile.id, WAIT_S):
            self._send(job_id, "cancel")

    async def _keep_order(self) -> None:
        await self.store.keep_order(lease_s=self.settings.lease_s)

    def _note(self, job_id: str, message: str, fraction: float) -> None:
        self._entries.append((job_id, message, "INFO"))
        self._progress[job_id] = fraction

    async def write_logs(self) -> None:
        """Write what `tell` has gathered."""
        if not self._entries:
            return
        entries, progress = self._entries, self._progress
        self._entries, self._progress = [], {}
        mine = [entry for entry in entries if entry[0] in self.in_hand]
        done = [
            (self.in_hand[id].claim, part) for id, part in progress.items() if id in self.in_hand
        ]
        if not mine:
            return
        try:
            await self.store.report(mine, done)
        except StoreUnavailable:
            self._entries, self._progress = mine + self._entries, progress | self._progress
            raise

    def _send(self, job_id: str, item: object) -> None:
        job = self.in_hand.get(job_id)
        if job is not None:
            job.items.put_nowait(item)

    def _stop_claiming(self) -> None:
        self._closing = True
        self._room.clear()

    async def _close(self, timeout_s: float) -> bool:
        self._stop_claiming()
        for job in self.in_hand.values():
            job.items.put_nowait("hand back")  # unless its pictures are there already
        tasks: list[asyncio.Task[Any]] = [
            job.task for job in self.in_hand.values() if job.task is not None
        ]
        if self._asked is not None:
            tasks.append(self._asked)
        pending: set[asyncio.Task[Any]] = set()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        for task in [*self._duties, *pending]:
            task.cancel()
        await asyncio.gather(*self._duties, *pending, return_exceptions=True)
        if hasattr(self, "store"):
            with suppress(GlmImageError):
                await self.store.hand_back_others(self.profile.id)
                await self.store.worker_gone(self.profile.id)
            await self.store.close()
        if hasattr(self, "files"):
            await self.files.close()
        if self.settings.health_file is not None:
            self.settings.health_file.unlink(missing_ok=True)
        await asyncio.to_thread(self.tracer.close)
        return not pending
