"""Remove what is over: expired files, files nobody knows, old results; keep the queue in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from ..files import FilesError
from ..files.store import check_path
from ..jobs import AWAITED, StoreUnavailable
from .arrivals import FOLDER as ARRIVALS_FOLDER
from .arrivals import forget, incoming_path, take_in
from .fal.uploads import MULTIPART_LIFETIME_S, PARTS_FOLDER, UPLOAD_LIFETIME_S
from .preparation import LEASE_S as PREPARATION_LEASE_S
from .services import Services
from .webhooks import longest_delay_s

log = logging.getLogger(__name__)

ORDER_S = 1.0
LOOK_S = 5.0
EXPIRY_S = 30.0
ORPHANS_S = 3600.0
ORPHAN_AGE_S = 3600.0
"""A file is stored before it is written down; one that was found lately may be on its way."""
LEASES_AT_MOST = 10.0
"""How much longer than ours a lease may be that was not given by a clock since put back."""
UNSTORED_S = 3600.0
"""What came with X-Fal-Store-IO: 0 can be read for so long."""
BATCH = 500


class Sweeper:
    """Clean up in the background, in one process at a time. removed: counted by kind."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []
        self._unknown: dict[str, float] = {}
        self.removed = services.counters.swept

    def start(self) -> None:
        """Begin; belongs to the running event loop."""
        for name, every_s, work in (
            ("order", ORDER_S, self.keep_order),
            ("expiry", EXPIRY_S, self.remove_expired),
            ("arrivals", EXPIRY_S, self.take_in_uploads),
            ("orphans", ORPHANS_S, self.remove_orphans),
        ):
            self._tasks.append(asyncio.create_task(self._repeat(every_s, work), name=name))

    async def stop(self) -> None:
        """End at once; whatever is left is found again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def keep_order(self) -> None:
        """Free lost leases, expire deadlines, age the queue."""
        settings = self._services.settings
        await self._services.store.keep_order(
            longest_lease_s=LEASES_AT_MOST * max(settings.lease_s, PREPARATION_LEASE_S),
            longest_delay_s=longest_delay_s(settings.webhook_window_s),
            lease_s=settings.lease_s,
        )

    async def remove_expired(self) -> None:
        """Delete files whose time is over, then results and history that are old."""
        store, settings = self._services.store, self._services.settings
        now = await store.now()
        while records := await store.expired_files(now, BATCH):
            gone = []
            for record in records:
                # the blob first: a row without a blob is a 404, a blob without a row an orphan
                with contextlib.suppress(FilesError):
                    if record.kind == AWAITED:
                        await self._services.files.delete(incoming_path(record.id))
                    await self._services.files.delete(record.path)
                    gone.append(record.id)
            self.removed["expired"] += await store.delete_file_rows(gone)
            if len(gone) < len(records):
                log.warning("%d expired files cannot be deleted now.", len(records) - len(gone))
                break
        while count := await store.purge_results(
            now - settings.result_lifetime_s, now - UNSTORED_S
        ):
            self.removed["results"] += count
        while count := await store.purge_history(now - settings.history_lifetime_s):
            self.removed["history"] += count

    async def take_in_uploads(self) -> None:
        """Write down what clients have stored in the bucket, and forget what has not come.

        An address for an upload is over by then, and so is an upload that was begun in time.
        """
        before = await self._services.store.now() - 2 * UPLOAD_LIFETIME_S
        while records := await self._services.store.awaited_files(before, BATCH):
            for record in records:
                if await take_in(self._services, record) is None:
                    await forget(self._services, record)

    async def remove_orphans(self) -> None:
        """Delete files without a record, parts of uploads that never ended, unfinished writes.

        A file has to be found without a record twice, an hour of the monotonic clock apart: its
        own date is another machine's, or older than it seems after the clock was put forward.
        """
        files, now = self._services.files, time.time()
        self.removed["unfinished"] += await files.remove_unfinished(ORPHAN_AGE_S)
        found: list[str] = []
        unknown: dict[str, float] = {}
        async for info in files.list():
            if not _may_be_ours(info.path):
                continue
            if info.path.startswith((f"{PARTS_FOLDER}/", f"{ARRIVALS_FOLDER}/")):
                if info.modified < now - MULTIPART_LIFETIME_S:
                    self.removed["parts"] += await files.delete(info.path)
                continue
            found.append(info.path)
            if len(found) >= BATCH:
                unknown |= await self._remove_unknown(found)
                found = []
        self._unknown = unknown | await self._remove_unknown(found)

    async def _remove_unknown(self, found: list[str]) -> dict[str, float]:
        """Delete those that nobody has known for long; return since when others are unknown."""
        known = await self._services.store.known_paths(found) if found else set()
        waiting: dict[str, float] = {}
        for path in found:
            if path in known:
                continue
            since = self._unknown.get(path, time.monotonic())
            if time.monotonic() - since >= ORPHAN_AGE_S and path in self._unknown:
                self.removed["orphans"] += await self._services.files.delete(path)
            else:
                waiting[path] = since
        return waiting

    async def _repeat(self, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            led = False
            try:
                led = await self._services.store.lead()
                if led:
                    await work()
            except StoreUnavailable as error:
                log.warning("Cleaning up waits for the database: %s", error)
                await self._services.store.resign()
                led = False
            except FilesError as error:
                log.warning("Cleaning up is put off: %s", error)
            except Exception:
                log.exception("Cleaning up is put off")
            # who does not lead looks often, lest what is due every hour waits for another one
            await asyncio.sleep(min(every_s, LOOK_S) if not led else every_s)


def _may_be_ours(path: str) -> bool:
    """Say whether a file has a name as we give them; others in the place are somebody else's."""
    try:
        check_path(path)
    except ValueError:
        return False
    return True
