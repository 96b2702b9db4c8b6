"""The durable job store: what server and workers share. Every method is one transaction."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from . import (
    endings,
    feed,
    leases,
    listing,
    order,
    queue,
    upkeep,
)
from .clock import ClockWatch
from .database import Cursor, Database, Topic, newest_change, open_database, store_time
from .ledger import Ledger
from .records import (
    Beat,
    CancelAnswer,
    Claim,
    Document,
    FileRecord,
    Job,
    Level,
    LogEntry,
    NewJob,
    Prior,
    Stage,
    Usage,
)

T = TypeVar("T")

SAFETY_POLL_S = 1.0
"""How long a waiting caller trusts in being woken."""
RESIGNED_S = 2.0
"""Who has resigned does not lead for so long; others try several times a second."""

LOOK_AGAIN_S = 86400.0
"""After it old results are looked for in all of history, in case a clock was wrong for a while."""


class JobStore(Ledger):
    """Keep jobs, keys, files, webhooks, usage and workers; see the modules beside this one.

    Belongs to the event loop it was opened in. Raises StoreUnavailable when the database fails.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._clock = ClockWatch()
        self._resigned_until = 0.0
        self._read_up_to: tuple[Cursor | None, int] = None, 0
        """How far the feed was read last, and at which moment."""
        self._looked_at, self._results_since = time.monotonic(), [0.0, 0.0]

    @classmethod
    async def open(
        cls, database_url: str, *, create: bool = True, direct_url: str | None = None
    ) -> JobStore:
        """Open `sqlite:///FILE` or `postgresql://...`; `create` makes and upgrades the tables.

        direct_url: of PostgreSQL itself, where `database_url` leads through a pooler.
        """
        return cls(await open_database(database_url, create=create, direct_url=direct_url))

    async def close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> JobStore:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # jobs

    async def enqueue(self, new: NewJob) -> tuple[Job, int]:
        """Queue a job; return it and its position; raise QueueFull."""
        return await self._db.write(self._db.steps.enqueue, new)

    async def insert_failed(self, new: NewJob, status: int, body: Document) -> Job:
        """Store a job that is refused; its webhook goes out all the same."""
        return await self._db.write(endings.insert_ended, new, "failed", status, body)

    async def insert_done(
        self, new: NewJob, result: Document, served_from: str, used: Usage | None = None
    ) -> Job:
        """Store a job that is answered without work: `served_from` "cache" or "fallback"."""
        return await self._db.write(
            endings.insert_ended, new, "done", 200, result, served_from, used
        )

    async def get(self, job_id: str) -> Job | None:
        """Return a job with its input and result."""
        return await self._db.read(queue.get, job_id)

    async def position(self, job_id: str) -> int | None:
        """Return how many jobs of the endpoint are ahead; None for a job that does not wait."""
        return await self._db.read(order.position, job_id)

    async def queue_length(self, endpoint: str) -> int:
        """Return how many jobs wait for an endpoint."""
        return await self._db.read(order.queue_length, endpoint)

    async def count_open(self) -> dict[str, int]:
        """Return how many jobs each stage may claim now."""
        return await self._db.read(queue.count_open)

    async def cancel(self, job_id: str, body: Document = endings.CANCELLED) -> CancelAnswer:
        """End a waiting job with `body`; ask the worker of a running one to let go."""
        return await self._db.write(endings.cancel, job_id, body)

    async def retry(self, job_id: str) -> Job | None:
        """Queue a failed or cancelled job again; None when there is no such job."""
        return await self._db.write(endings.retry, job_id)

    async def delete_payload(self, job_id: str) -> bool:
        """Forget a job's input, result, priors and logs; False for an unknown job."""
        return await self._db.write(upkeep.delete_payload, job_id)

    async def list_jobs(self, state: str | None = None, **options: Any) -> list[Job]:
        """Return jobs without their payloads; the arguments are those of listing.py."""
        return await self._db.read(listing.list_jobs, state, **options)

    async def ended_before(self, before: float) -> list[str]:
        """Return the ids of jobs that ended before, at most 500."""
        return await self._db.read(upkeep.ended_before, before)

    async def purge_jobs(self, ids: Sequence[str]) -> list[str]:
        """Delete jobs that have ended, at most 500, and let their files expire now."""
        return await self._db.write(upkeep.purge_jobs, ids)

    async def purge_results(self, before: float, unstored_before: float | None = None) -> int:
        """Forget the payloads of jobs that ended before; return how many (at most 1000 a call).

        unstored_before: the same for jobs that came with store_io=False.
        """
        if time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at, self._results_since = time.monotonic(), [0.0, 0.0]
        count = await self._purge_results(before, only_unstored=False)
        if unstored_before is not None:
            count += await self._purge_results(unstored_before, only_unstored=True)
        return count

    async def _purge_results(self, before: float, *, only_unstored: bool) -> int:
        since = self._results_since[only_unstored]
        due = await self._db.read(upkeep.results_due, since, before, only_unstored=only_unstored)
        count = await self._db.write(upkeep.purge_results, due.ids) if due.ids else 0
        self._results_since[only_unstored] = due.until
        return count

    async def purge_history(self, before: float) -> int:
        """Delete jobs that ended before; return how many (at most 500 a call)."""
        return await self._db.write(upkeep.purge_history, before)

    # the work

    async def claim(
        self,
        worker_id: str,
        stages: Sequence[Stage],
        limit: int,
        lease_s: float,
        model_revision: str | None = None,
    ) -> list[Claim]:
        """Take up to `limit` jobs from the front of the queue for `lease_s` seconds."""
        claim = self._db.steps.claim
        return await self._db.write(claim, worker_id, stages, limit, lease_s, model_revision)

    async def heartbeat(self, claims: Sequence[Claim], lease_s: float) -> Beat:
        """Extend leases; learn which jobs are lost and which to cancel."""
        return await self._db.write(leases.heartbeat, claims, lease_s)

    async def report(
        self,
        entries: Sequence[tuple[str, str, Level]],
        progress: Sequence[tuple[Claim, float]] = (),
    ) -> None:
        """Write log entries, each (job_id, message, level), and how far jobs are, 0 to 1."""
        await self._db.write(leases.report, entries, progress)

    async def wait_for_cancel(self, worker_id: str, timeout_s: float) -> frozenset[str]:
        """Wait until jobs of a worker are to be cancelled, and return their ids; or none."""
        ids = partial(self._db.read, leases.cancelled_of, worker_id)
        return await self._wait_until("cancel", ids, timeout_s)

    async def prepared(
        self,
        claim: Claim,
        input: Document,
        reference_file_ids: Sequence[str] = (),
        prior_key: str | None = None,
    ) -> None:
        """Hand a prepared job over to the workers."""
        await self._db.write(leases.prepared, claim, input, reference_file_ids, prior_key)

    async def save_priors(
        self, claim: Claim, priors: Sequence[Prior], model_revision: str, *, release: bool = False
    ) -> None:
        """Keep a job's priors; `release` leaves the rest to another worker."""
        await self._db.write(leases.save_priors, claim, priors, model_revision, release=release)

    async def finish(
        self,
        claim: Claim,
        result: Document,
        files: Sequence[FileRecord] = (),
        usage: Usage | None = None,
    ) -> Job:
        """End a job well, with files, usage and webhook, in one transaction; raise LeaseLost."""
        return await self._db.write(self._db.steps.finish, claim, result, files, usage)

    async def fail(self, claim: Claim, status: int, body: Document, retryable: bool = False) -> Job:
        """End a job with an error; a retryable one is queued again while attempts are left."""
        return await self._db.write(leases.fail, claim, status, body, retryable=retryable)

    async def hand_back(self, claim: Claim) -> Job:
        """Queue a claimed job again; the attempt does not count."""
        return await self._db.write(leases.hand_back, claim)

    async def hand_back_others(self, worker_id: str, held: Sequence[Claim] = ()) -> list[Job]:
        """Queue again what a worker holds beside `held`; these attempts do not count."""
        return await self._db.write(leases.hand_back_others, worker_id, held)

    async def confirm_cancelled(self, claim: Claim) -> Job:
        """End a job whose cancelling was asked for."""
        return await self._db.write(leases.confirm_cancelled, claim)

    async def wait_for_work(
        self, stages: Sequence[Stage], timeout_s: float, model_revision: str | None = None
    ) -> bool:
        """Wait until a job of one of the stages may be claimed; False when none came."""
        has_work = partial(self._db.read, queue.has_work, stages, model_revision)
        return await self._wait_until("work", has_work, timeout_s)

    # what keeps the queue in order; safe to call from any process at any time

    async def recover_leases(self, now: float) -> list[Job]:
        """Free the jobs whose leases have run out by `now`; `keep_order` does it when it may."""
        return await self._db.write(endings.recover_leases, now)

    async def expire_starts(self, now: float | None = None) -> list[Job]:
        """Fail the jobs that were not begun before their deadline."""
        return await self._db.write(endings.expire_starts, now)

    async def lead(self) -> bool:
        """Try to be the one that does what is done in one place at a time; ask before each round.

        Whoever leads does so until it resigns, closes the store, dies, or loses its connection.
        """
        return time.monotonic() >= self._resigned_until and await self._db.lead()

    async def resign(self) -> None:
        """Let another one lead, after a round in which the store could not be reached."""
        self._resigned_until = time.monotonic() + RESIGNED_S
        await self._db.resign()

    async def keep_order(
        self,
        ageing_s: float = order.AGEING_S,
        longest_lease_s: float = 3600.0,
        longest_delay_s: float = math.inf,
        lease_s: float = 30.0,
    ) -> None:
        """Do what a queue needs every second or so: leases, deadlines, lost revisions, ageing.

        Leases are left alone after a jump of the clock, and in the first rounds of a process, or
        after a time without any: workers that live get time to renew theirs.
        longest_delay_s: between attempts at a webhook. lease_s: of the workers.
        """
        trust = await self._clock.trust(self.now, lease_s)
        await self._db.write(upkeep.keep_order, ageing_s, longest_lease_s, longest_delay_s, trust)
        self._clock.worked()

    async def now(self) -> float:
        """Return the time by the clock that all who share the store go by."""
        return await self._db.read(store_time)

    # what happens

    async def log(self, job_id: str, message: str, level: Level = "INFO") -> None:
        """Add an entry to a job's log."""
        await self._db.write(feed.log, [(job_id, message, level)])

    async def logs(self, job_id: str, after: int = 0) -> list[LogEntry]:
        """Return a job's log entries with a number above `after`."""
        return await self._db.read(feed.read_logs, job_id, after)

    async def newest_change(self) -> Cursor:
        """Return the cursor behind the changes that are visible."""
        return await self._db.read(newest_change)

    async def changes_since(self, cursor: Cursor) -> feed.Changes:
        """Return jobs changed since `cursor`, in order, as they are now, without payloads."""
        return await self._db.read(feed.changes_since, cursor)

    async def wait_for_changes(self, cursor: Cursor, timeout_s: float) -> feed.Changes:
        """Like `changes_since`, but wait for the first one; without jobs when none came."""

        async def changes() -> feed.Changes:
            moment = self._db.moment("change")
            found = await self.changes_since(cursor)
            self._read_up_to = found.cursor, moment
            return found

        read, moment = self._read_up_to
        asked_at = moment if read == cursor else None
        return await self._wait_until("change", changes, timeout_s, asked_at)

    async def _wait_until(
        self,
        topic: Topic,
        ask: Callable[[], Awaitable[T]],
        timeout_s: float,
        asked_at: int | None = None,
    ) -> T:
        """Ask again after every write on a topic until there is an answer, or the time is up.

        asked_at: the moment at which all there was has been answered.
        """
        deadline = time.monotonic() + timeout_s
        if asked_at is not None and self._db.moment(topic) == asked_at:
            await self._db.wait(topic, asked_at, min(timeout_s, SAFETY_POLL_S))
        while True:
            moment = self._db.moment(topic)
            answer = await ask()
            left = deadline - time.monotonic()
            if answer or left <= 0:
                return answer
            await self._db.wait(topic, moment, min(left, SAFETY_POLL_S))

    async def live_jobs(self) -> feed.Changes:
        """Return the jobs that have not ended, and the cursor to go on from."""
        return await self._db.snapshot(feed.live_jobs)
