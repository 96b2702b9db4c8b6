"""A picture of the jobs that are alive, kept by the store's change feed: polls cost no query."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..jobs import Job, JobStore, LogEntry, StoreUnavailable
from .open_jobs import OpenJobs

T = TypeVar("T")

MAX_ENDED = 5_000
"""Ended jobs that are remembered; older ones are asked from the store."""
MAX_LOGS = 2_000
NEWS_S = 60.0
"""A job that ended earlier has been told of, even if it is not remembered."""
FEED_WAIT_S = 5.0
FEED_BUSY_S, FEED_PAUSE_S = 0.05, 0.003
"""Where changes follow one another so soon, those that come within the pause are read together."""
STORE_PAUSE_S = 0.5
"""Before the store is asked again after it has failed."""
log = logging.getLogger(__name__)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the store for somebody who can wait; again while it is away."""
    while True:
        try:
            return await ask()
        except StoreUnavailable as error:
            log.warning("What is under way waits for the database: %s", error)
            await asyncio.sleep(STORE_PAUSE_S)


class LiveJobs:
    """Know state and position of every job that has not ended, a few milliseconds late at most."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._live: dict[str, Job] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._queues: dict[str, list[tuple[int, int]]] = {}
        self._logs: OrderedDict[str, list[LogEntry]] = OrderedDict()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._on_end: list[Callable[[Job], None]] = []
        self._loaded = asyncio.Event()
        self._since = time.time()
        self.open = OpenJobs()

    def on_end(self, listener: Callable[[Job], None]) -> None:
        """Call `listener` with every job that ends, once, wherever it was worked on."""
        self._on_end.append(listener)

    async def follow(self) -> None:
        """Read the change feed until cancelled."""
        jobs, cursor = await self._store.live_jobs()
        self._live.clear()
        self._queues.clear()
        self.open.clear()
        for job in jobs:
            self.put(job)
        self._wake_all()
        self._loaded.set()
        told = -FEED_BUSY_S
        while True:
            try:
                changed, cursor = await self._store.wait_for_changes(cursor, FEED_WAIT_S)
            except StoreUnavailable as error:
                # nothing of the feed is lost meanwhile; it is read on from where it was
                log.warning("The status of requests is late: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)
                continue
            for job in changed:
                self.put(job)
            told, before = time.monotonic(), told
            if told - before < FEED_BUSY_S:
                await asyncio.sleep(FEED_PAUSE_S)

    async def loaded(self) -> None:
        """Wait until the jobs that were there at the start are known."""
        await self._loaded.wait()

    def put(self, job: Job, *, news: bool = True) -> None:
        """Take over a job as it is now, unless something newer is known; `news`: it may have ended
        just now."""
        known = self._live.get(job.id) or self._ended.get(job.id)
        if known is not None and not _is_news(job, known):
            return
        self._leave_queue(self._live.get(job.id))
        self.open.put(job)
        job = replace(job, input=None, result=None)
        if job.ended:
            self._live.pop(job.id, None)
            self._ended[job.id] = job
            self._ended.move_to_end(job.id)
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
            if news and (known is None or not known.ended):
                for listener in self._on_end:
                    listener(job)
        else:
            self._ended.pop(job.id, None)  # it is tried again
            self._live[job.id] = job
            if job.waiting:
                insort(self._queues.setdefault(job.endpoint, []), (job.place, job.number))
        for event in self._watchers.get(job.id, ()):
            event.set()

    async def get(self, job_id: str) -> Job | None:
        """Return the job without its payload; None when there is no such job."""
        job = self._live.get(job_id) or self._ended.get(job_id)
        if job is not None:
            return job
        job = await self._store.get(job_id)
        if job is not None and job.ended:
            ended = job.finished_at or 0.0
            self.put(job, news=ended > max(self._since, time.time() - NEWS_S))
        return job

    def forget(self, job_id: str) -> None:
        """Ask the store again for an ended job the next time."""
        self._ended.pop(job_id, None)

    async def position(self, job: Job) -> int:
        """Return how many requests of the endpoint are ahead."""
        queue = self._queues.get(job.endpoint, [])
        place = (job.place, job.number)
        index = bisect_left(queue, place)
        if index < len(queue) and queue[index] == place:
            return index
        return await self._store.position(job.id) or 0

    def jobs(self) -> list[Job]:
        """Return all jobs that have not ended, those in work first, then in the queue's order."""
        return sorted(self._live.values(), key=lambda job: (job.waiting, job.place, job.number))

    def queue_length(self, endpoint: str | None = None) -> int:
        """Return how many requests wait, of one endpoint or of all."""
        if endpoint is not None:
            return len(self._queues.get(endpoint, ()))
        return sum(len(queue) for queue in self._queues.values())

    def num_busy(self, api_key_id: str) -> int:
        """Return how many requests of a key count against its concurrency limit.

        Those that run, and the direct ones, whose callers do not wait in a queue.
        """
        return sum(
            job.api_key_id == api_key_id and (not job.waiting or job.surface != "queue")
            for job in self._live.values()
        )

    async def logs(self, job: Job) -> list[LogEntry]:
        """Return the job's log so far; the store is asked only for what is new."""
        known = self._logs.get(job.id)
        if known is None:
            known = self._logs[job.id] = []
            if len(self._logs) > MAX_LOGS:
                self._logs.popitem(last=False)
        after = known[-1].number if known else 0
        if job.last_log > after:
            fresh = await self._store.logs(job.id, after)
            # another poll of the same job may have asked at the same time
            newest = known[-1].number if known else 0
            known.extend(entry for entry in fresh if entry.number > newest)
        return known

    async def changes(self, job_id: str) -> AsyncIterator[Job]:
        """Yield the job as it is, and again after each change, until it has ended.

        Changes that come faster than they are taken are seen as one. Ends at once without a job.
        """
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        try:
            shown = -1
            while True:
                event.clear()
                job = await patiently(partial(self.get, job_id))
                if job is None:
                    return
                if job.change_number != shown:
                    shown = job.change_number
                    yield job
                if job.ended:
                    return
                await event.wait()
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[job_id]

    async def until_ended(self, job_id: str) -> Job | None:
        """Wait for the job's end and return it; None when there is no such job."""
        last: Job | None = None
        async for job in self.changes(job_id):
            last = job
        return last

    def _leave_queue(self, job: Job | None) -> None:
        if job is None or not job.waiting:
            return
        queue = self._queues.get(job.endpoint, [])
        place = (job.place, job.number)
        index = bisect_left(queue, place)
        if index < len(queue) and queue[index] == place:
            del queue[index]

    def _wake_all(self) -> None:
        for events in self._watchers.values():
            for event in events:
                event.set()


def _is_news(job: Job, known: Job) -> bool:
    """Say whether a job was read later than what is known of it.

    Numbers of changes may go back on PostgreSQL: a transaction that began earlier may come to the
    job later. A fence never does, and what has ended under one was open before.
    """
    if job.fence != known.fence:
        return job.fence > known.fence
    if job.change_number == known.change_number:
        return job.state != known.state
    return job.change_number > known.change_number or (job.ended and not known.ended)
