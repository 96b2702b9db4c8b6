"""One claimed job, from its references to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from ..errors import GlmImageError, InvalidRequest
from ..evaluation.judge import Reads
from ..files import FilesError, StorageFull, StorageUnavailable
from ..jobs import Claim, FileRecord, LeaseLost, Prior, StoreUnavailable, Usage
from ..jobs.records import REUSE_FIELD
from ..telemetry.logs import about_request
from ..types import Failed, GenerationRequest, PictureReady, TokenCounts
from .outcome import (
    Encoded,
    Preview,
    build_request,
    choose_pictures,
    describe_check,
    describe_picture,
    error_body,
    file_record,
    finish_picture,
    finish_preview,
    reads_text,
)
from .report import StageDone, Written

if TYPE_CHECKING:
    from .link import StoreLink

T = TypeVar("T")

RETRY_PAUSE_S = 0.5
STORE_FOR_S = 600.0
"""How long a finished picture is kept for a disk that is full or a bucket that refuses."""
log = logging.getLogger(__name__)
# checking and encoding take tens of milliseconds, in which the engine goes on
_finishers = ThreadPoolExecutor(1, "finisher")


class _ToldToLeave(Exception):
    """Carry "cancel" or "hand back" out of a wait for the storage."""

    def __init__(self, item: object) -> None:
        super().__init__(item)
        self.item = item


class JobInHand:
    """Tend a job with what arrives in `items`, in this order of life:

    Written                all priors; saved before anything that follows
    StageDone              measured and traced
    Preview                checked and stored for an hour; a log line tells of it
    PictureReady           checked and encoded; with the last one the job is finished
    Failed                 the job fails, or is tried again
    "cancel", "hand back"  the engine has let go of it, or will
    """

    def __init__(self, link: StoreLink, claim: Claim) -> None:
        self.link, self.claim = link, claim
        self.items: asyncio.Queue[object] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
        self.leaving = False
        self._started = time.monotonic()
        self._pictures: dict[int, Encoded] = {}
        self._request: GenerationRequest
        self._counts: TokenCounts | None = None
        self._counting: asyncio.Future[TokenCounts | None] | None = None
        self._reader: Reads | None = None

    async def tend(self) -> None:
        """Work until the job has left our hands."""
        about_request(self.claim.job.id, self.claim.job.trace_context)
        try:
            try:
                if not await self._begin():
                    return
                while not await self._handle(await self.items.get()):
                    pass
            except _ToldToLeave as told:
                await self._handle(told.item)
        except LeaseLost:
            log.warning("The lease on job %s is lost.", self.claim.job.id)
            self._drop()
        except GlmImageError as error:
            await self._fail(error)
        except Exception as error:
            log.exception("job %s failed", self.claim.job.id)
            self._drop()
            await self._fail(GlmImageError(f"{type(error).__name__}: {error}"))

    async def _begin(self) -> bool:
        """Hand the job to the engine; False when it has ended before."""
        from .link import Begin

        claim, store = self.claim, self.link.store
        request = await self._when_storage_is_there(
            lambda: self._insist(
                lambda: build_request(claim, store, self.link.files, self.link.settings.lora_dir)
            )
        )
        if reads_text(claim.job.input or {}):
            await self._make_reader()
        priors, prior_key = claim.priors, claim.job.prior_key
        wanted = self.link.settings.result_cache and (claim.job.input or {}).get(REUSE_FIELD, True)
        if not priors and prior_key and wanted:
            revision = self.link.profile.revision
            priors = await self._insist(lambda: store.find_cached_prior(prior_key, revision))
            hit = len(priors) == claim.job.num_images
            outcome = "hit" if hit else "miss"
            self.link.report.meters.count("glmimage_prior_cache_total", outcome=outcome)
            if hit:
                await self._save(priors, "decode" not in self.link.profile.stages)
                message = "The prior of an equal request is used again."
                await self._insist(lambda: store.log(claim.job.id, message))
                if "decode" not in self.link.profile.stages:
                    return False
            else:
                priors = ()
        self.link.inbox.put(Begin(claim, request, tuple(priors)))
        self._request = request
        if priors:  # nothing is to be written
            self._count_tokens()
        return True

    async def _handle(self, item: object) -> bool:
        """Deal with one item; True when the job has left our hands."""
        if isinstance(item, StageDone):
            self._stage_done(item)
            return False
        if isinstance(item, Written):
            paints = "decode" in self.link.profile.stages
            self._counts = item.counts
            await self._save(item.priors, not paints)
            return not paints
        if isinstance(item, Preview):
            await self._show(item)
            return False
        if isinstance(item, PictureReady):
            asked = self.claim.job.input or {}
            loop = asyncio.get_running_loop()
            self._pictures[item.image_index] = await loop.run_in_executor(
                _finishers, finish_picture, item, asked, self.link.checker, self._reader
            )
            if len(self._pictures) < self.claim.job.num_images:
                return False
            await self._finish()
        elif isinstance(item, Failed):
            _log_failure(self.claim.job.id, item.error)
            await self._fail(item.error)
        elif item == "cancel":
            self._drop()
            await self._leave(lambda: self.link.store.confirm_cancelled(self.claim))
        elif item == "hand back":
            await self._leave(lambda: self.link.store.hand_back(self.claim))
        return True

    def _count_tokens(self) -> None:
        """Begin to count what was read and written where the priors are given."""
        loop, count = asyncio.get_running_loop(), self.link.count_tokens
        self._counting = loop.run_in_executor(_finishers, count, self._request)

    async def _show(self, preview: Preview) -> None:
        """Store a preview; without it the job goes on as well."""
        loop, now = asyncio.get_running_loop(), time.time()
        try:
            done = await loop.run_in_executor(
                _finishers, finish_preview, preview, self.claim, self.link.checker, now
            )
            if done is None:
                return
            record, content = done
            await self._put_now(record, content)
            await self.link.store.add_file(record)
            number, total = preview.image_index + 1, self.claim.job.num_images
            await self.link.store.log(self.claim.job.id, f"picture {number}/{total}: preview")
        except GlmImageError as error:
            log.warning("A preview cannot be stored: %s", error)

    async def _save(self, priors: tuple[Prior, ...], release: bool) -> None:
        revision = self.link.profile.revision
        self.leaving = self.leaving or release
        await self._insist(
            lambda: self.link.store.save_priors(self.claim, priors, revision, release=release)
        )

    async def _finish(self) -> None:
        """Store the files, then end the job; when that fails the files go again."""
        job, settings = self.claim.job, self.link.settings
        painted = [self._pictures[index] for index in range(job.num_images)]
        pictures = choose_pictures(painted, job.input or {})
        if self._counting is not None:
            self._counts = await self._counting
        keep = not (job.input or {}).get("sync_mode", False)
        lifetime_s, now = settings.output_lifetime_s, time.time()
        records = [
            file_record(self.claim, picture, lifetime_s, now) for picture in pictures if keep
        ]
        try:
            with self._measured("store"):
                logged = asyncio.ensure_future(self._insist(self.link.write_logs))
                for record, picture in zip(records, pictures, strict=False):
                    await self._put(record, picture.content)
                await logged
            result, used = self._result(pictures, records), self._usage()
            with self.link.tracer.span("finish", job.trace_context):
                await self._leave(lambda: self.link.store.finish(self.claim, result, records, used))
            log.info("Finished in %.2f s", used.duration_s)
        except asyncio.CancelledError:
            if not self.leaving:  # let go before anything was written that names the files
                await self._delete(records)
            raise
        except Exception:
            if not await self._has_finished():
                await self._delete(records)
                raise

    async def _delete(self, records: list[FileRecord]) -> None:
        for record in records:
            with suppress(FilesError):
                await self.link.files.delete(record.path)

    async def _make_reader(self) -> None:
        """Load what reads pictures before any is painted; raise InvalidRequest where it is not."""
        loop = asyncio.get_running_loop()
        try:
            self._reader = await loop.run_in_executor(_finishers, self.link.load_reader)
        except GlmImageError as error:
            raise InvalidRequest(error.message, field="text_check", hint=error.hint) from None

    @contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        """Measure and trace what is done within for the whole job."""
        began = time.time()
        with self.link.tracer.span(stage, self.claim.job.trace_context):
            yield
        meters = self.link.report.meters
        meters.observe("glmimage_stage_seconds", time.time() - began, stage=stage)

    def _stage_done(self, done: StageDone) -> None:
        values = {"image_index": done.image_index}
        context, meters = self.claim.job.trace_context, self.link.report.meters
        self.link.tracer.record(done.stage, context, done.began, done.ended, values)
        meters.observe("glmimage_stage_seconds", done.ended - done.began, stage=done.stage)
        if done.stage == "decode":
            meters.count("glmimage_pictures_total")

    async def _has_finished(self) -> bool:
        """Say whether our own finish was written although its answer was lost on the way."""
        job = await self._insist(lambda: self.link.store.get(self.claim.job.id))
        return job is not None and job.state == "done" and job.fence == self.claim.fence

    def _result(self, pictures: list[Encoded], records: list[FileRecord]) -> dict[str, object]:
        job = self.claim.job
        found: list[FileRecord | None] = [*records] or [None] * len(pictures)
        timings = {"inference": time.monotonic() - self._started}
        for name in ("prior", "denoise", "decode"):
            timings[name] = sum(
                picture.timings.get(f"{name}_s", 0.0) for picture in self._pictures.values()
            )
        checks = [describe_check(picture, job.num_images) for picture in pictures]
        tokens = asdict(self._counts) if self._counts is not None else {}
        if tokens:  # a prompt is counted once
            tokens["output"] *= job.num_images
        return {
            "images": [
                describe_picture(picture, record)
                for picture, record in zip(pictures, found, strict=True)
            ],
            "seed": job.seed,
            "prompt": (job.input or {}).get("prompt", ""),
            "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
            **({"text_check": checks} if self._reader is not None else {}),
            **({"tokens": tokens} if tokens else {}),
        }

    def _usage(self) -> Usage:
        duration_s = time.monotonic() - self._started
        return Usage(self.claim.job.megapixels, self.link.settings.unit_price, duration_s)

    async def _put(self, record: FileRecord, content: bytes) -> None:
        await self._when_storage_is_there(lambda: self._put_now(record, content))

    async def _put_now(self, record: FileRecord, content: bytes) -> int:
        return await self.link.files.put(
            record.path, content, content_type=record.content_type, name=record.name
        )

    async def _when_storage_is_there(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat while files cannot be read or stored, unless told to leave the job."""
        deadline = time.monotonic() + STORE_FOR_S
        while True:
            try:
                return await work()
            except (StorageFull, StorageUnavailable) as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("Job %s waits for the storage: %s", self.claim.job.id, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_PAUSE_S):
                    item = await self.items.get()
                if item in ("cancel", "hand back"):
                    raise _ToldToLeave(item)

    async def _fail(self, error: GlmImageError) -> None:
        status, body, retryable = error_body(error)
        with suppress(LeaseLost):
            await self._leave(
                lambda: self.link.store.fail(self.claim, status, body, retryable=retryable)
            )

    async def _leave(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do the write after which the job is not ours; from now on only it can lose the lease."""
        self.leaving = True
        return await self._insist(write)

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the store is away; LeaseLost ends it."""
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                log.warning("%s", error)
                await asyncio.sleep(RETRY_PAUSE_S)

    def _drop(self) -> None:
        """Have the engine forget the job, unless it has come back to us: then that one is meant."""
        from .link import Drop

        if self.link.in_hand.get(self.claim.job.id) is self:
            self.link.inbox.put(Drop(self.claim.job.id))


def _log_failure(job_id: str, error: GlmImageError) -> None:
    notes = "\n".join(getattr(error, "__notes__", ()))
    log.error("Job %s failed: %s\n%s", job_id, error, notes)
