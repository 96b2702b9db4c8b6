"""What is kept beside the queue: keys, files, webhooks, accounts, reusable results, workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import accounts, file_index, keys, outbox, reuse, roster
from .database import Database
from .figures import StoreFigures, file_figures, store_figures
from .records import (
    ApiKey,
    BillingEvent,
    Document,
    FileRecord,
    Job,
    Prior,
    Stage,
    UsageRow,
    Webhook,
    Worker,
)


class Ledger:
    """The half of `JobStore` that is no queue."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # keys

    async def create_key(
        self, name: str, concurrency: int | None = None, rate: float | None = None
    ) -> tuple[str, ApiKey]:
        """Make a key; its text is shown this once."""
        return await self._db.write(keys.create_key, name, concurrency, rate)

    async def find_key(self, text: str) -> ApiKey | None:
        """Return the valid key with this text."""
        return await self._db.read(keys.find_key, text)

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, revoked ones too."""
        return await self._db.read(keys.list_keys)

    async def revoke_key(self, id: str) -> bool:
        """Make a key worthless; False when there is no valid one with this id."""
        return await self._db.write(keys.revoke_key, id)

    # files

    async def add_file(self, record: FileRecord) -> None:
        """Write down a file that is stored."""
        await self._db.write(file_index.add_file, record)

    async def get_file(self, id: str) -> FileRecord | None:
        """Return a file's record, whether it has expired or not."""
        return await self._db.read(file_index.get_file, id)

    async def files_of(self, job_id: str) -> list[FileRecord]:
        """Return the files a job has made."""
        return await self._db.read(file_index.files_of, job_id)

    async def known_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of the paths that belong to a file."""
        return await self._db.read(file_index.known_paths, paths)

    async def expired_files(self, now: float, limit: int = 500) -> list[FileRecord]:
        """Return files whose time is over, the oldest first."""
        return await self._db.read(file_index.expired_files, now, limit)

    async def awaited_files(self, before: float, limit: int = 500) -> list[FileRecord]:
        """Return uploads that have been awaited since before a time, the oldest first."""
        return await self._db.read(file_index.awaited_files, before, limit)

    async def get_storage_settings(self, owner: str) -> Document:
        """Return the lifecycle that new files of a key get; {} when nothing was set."""
        return await self._db.read(file_index.get_storage_settings, owner)

    async def set_storage_settings(self, owner: str, lifecycle: Document) -> None:
        """Replace the lifecycle that new files of a key get."""
        await self._db.write(file_index.set_storage_settings, owner, lifecycle)

    async def file_arrived(self, id: str, size: int) -> FileRecord | None:
        """Write down that an awaited upload is stored; None when it is forgotten."""
        return await self._db.write(file_index.file_arrived, id, size)

    async def set_file_acl(self, id: str, acl: Document | None, expires: float | None) -> bool:
        """Change who may read a file and until when; False when there is none."""
        return await self._db.write(file_index.set_file_acl, id, acl, expires)

    async def delete_file_rows(self, ids: Sequence[str]) -> int:
        """Forget files whose blobs are deleted."""
        return await self._db.write(file_index.delete_file_rows, ids)

    # webhooks

    async def due_webhooks(self, now: float | None = None, limit: int = 50) -> list[Webhook]:
        """Take deliveries that are due; nobody else gets them for three minutes."""
        return await self._db.write(outbox.due_webhooks, now, limit)

    async def next_webhook_at(self) -> float | None:
        """Return when the next delivery is due."""
        return await self._db.read(outbox.next_webhook_at)

    async def webhook_delivered(self, id: str, status: int) -> None:
        """Note that the receiver has taken a delivery."""
        await self._db.write(outbox.webhook_delivered, id, status)

    async def webhook_failed(
        self, id: str, error: str, next_attempt: float | None, status: int | None = None
    ) -> None:
        """Note a failed attempt; without a next one it has failed for good."""
        await self._db.write(outbox.webhook_failed, id, error, next_attempt, status)

    async def list_webhooks(self, job_id: str | None = None, limit: int = 100) -> Sequence[Webhook]:
        """Return deliveries, the newest first."""
        return await self._db.read(outbox.list_webhooks, job_id, limit)

    # accounts; their arguments are those of accounts.py

    async def usage(self, *args: Any, **options: Any) -> list[UsageRow]:
        """Sum up usage by endpoint and price, also by key or slices of time."""
        return await self._db.read(accounts.usage, *args, **options)

    async def billing_events(self, *args: Any, **options: Any) -> list[BillingEvent]:
        """Return what single requests have cost, the newest first."""
        return await self._db.read(accounts.billing_events, *args, **options)

    async def requests(self, endpoint: str | None = None, **options: Any) -> list[Job]:
        """Return jobs that have ended, the newest first."""
        return await self._db.read(accounts.requests, endpoint, **options)

    # what can be used again

    async def find_cached_result(self, cache_key: str) -> Job | None:
        """Return the newest finished job of an equal request that still has its result."""
        return await self._db.read(reuse.find_cached_result, cache_key)

    async def find_cached_prior(
        self, prior_key: str, model_revision: str | None = None
    ) -> tuple[Prior, ...]:
        """Return the stored priors of an equal prompt, size, seed and references."""
        return await self._db.read(reuse.find_cached_prior, prior_key, model_revision)

    # workers

    async def figures(self) -> StoreFigures:
        """Return numbers of the whole deployment, for metrics."""
        return await self._db.read(store_figures)

    async def file_figures(self) -> dict[str, tuple[int, int]]:
        """Return (number, bytes) of the stored files by kind."""
        return await self._db.read(file_figures)

    async def worker_seen(
        self,
        worker_id: str,
        stages: Sequence[Stage] = ("prior", "decode"),
        model: str = "",
        model_revision: str = "",
        *,
        ready: bool = True,
        started_at: float = 0.0,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that a worker is alive, and whether its model is loaded."""
        await self._db.write(
            roster.worker_seen,
            worker_id,
            stages,
            model,
            model_revision,
            ready=ready,
            started_at=started_at,
            info=info or {},
        )

    async def worker_gone(self, worker_id: str) -> None:
        """Forget a worker that has stopped."""
        await self._db.write(roster.worker_gone, worker_id)

    async def live_workers(self, since: float) -> list[Worker]:
        """Return the workers seen after a time."""
        return await self._db.read(roster.live_workers, since)
