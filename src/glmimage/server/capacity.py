"""May a request be taken now? Live workers, queue limits, and the opt-in answer when it may not."""

from __future__ import annotations

import asyncio
import time

from ..config import Settings
from ..jobs import ApiKey, Job, JobStore, QueueFull, Worker
from .fal.errors import RequestError
from .live_jobs import LiveJobs

REMEMBERED_S = 1.0
RETRY_AFTER_S = 30
STALE_AFTER_S = 30.0
"""A worker that has not been seen for so long is not counted as alive by the health page."""


class Capacity:
    """Know whether somebody works, and refuse what would wait in vain."""

    def __init__(self, settings: Settings, store: JobStore, live: LiveJobs) -> None:
        self._settings, self._store, self._live = settings, store, live
        self._started = time.monotonic()
        self._known: tuple[float, list[Worker]] | None = None  # and the store's time then
        self._asking = asyncio.Lock()  # who comes meanwhile waits for the answer too
        self._asked_at = 0.0

    async def workers(self, within_s: float = STALE_AFTER_S) -> list[Worker]:
        """Return the workers seen lately."""
        async with self._asking:
            if self._known is None or time.monotonic() - self._asked_at >= REMEMBERED_S:
                longest = max(self._settings.no_worker_timeout_s, STALE_AFTER_S)
                now = await self._store.now()  # workers are seen by that clock
                self._known = now, await self._store.live_workers(now - longest)
                self._asked_at = time.monotonic()
            now, workers = self._known
        return [worker for worker in workers if worker.seen_at >= now - within_s]

    async def check_workers(self) -> None:
        """Raise 503 when no worker has been alive for the set time."""
        patience = self._settings.no_worker_timeout_s
        if time.monotonic() - self._started < patience or await self.workers(patience):
            return
        raise RequestError(
            "runner_scheduling_failure",
            f"No worker has been alive for {patience:g} s, so nothing can be painted now. "
            "Try again later; whoever runs the server can start one with `glmimage worker`.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )

    def check_concurrency(self, key: ApiKey | None) -> None:
        """Raise 429 when a direct request would exceed the key's limit."""
        if key is None or key.concurrency is None or self._live.num_busy(key.id) < key.concurrency:
            return
        raise RequestError(
            "concurrent_requests_limit",
            f"This key may have {key.concurrency} requests in work at a time. "
            "Wait for one to end, or use the queue.",
            headers={"X-Fal-Needs-Retry": "1", "Retry-After": "1"},
        )

    def queue_limit(self, asked: int | None) -> int:
        """Return how many requests may wait already when another is taken."""
        own = self._settings.max_queue_length - 1
        return own if asked is None else min(asked, own)


def queue_full(error: QueueFull) -> RequestError:
    """Tell the caller that too many requests wait."""
    return RequestError("queue_full", str(error), headers={"Retry-After": "5"})


def same_prompt(job: Job, prompt: str) -> bool:
    """Say whether a stored job was asked for this prompt and still has its pictures."""
    return job.input is not None and job.result is not None and job.input.get("prompt") == prompt
