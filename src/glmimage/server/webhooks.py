"""Deliver webhooks from the outbox: signed, guarded, tried again for a while (spec section 13)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import random
import time

from ..jobs import Job, StoreUnavailable, Webhook
from ..policy.errors import AddressRefused, FetchFailed
from ..policy.fetch import FetchLimits, post_public
from ..telemetry.logs import while_about
from .fal.render import webhook_body
from .responses import to_json
from .services import Services

log = logging.getLogger(__name__)

FIRST_DELAY_S = 7.0
"""Doubled after each failure: ten retries fill two hours."""
FIRST_LIMITS = FetchLimits(max_bytes=0, total_s=15.0, connect_s=10.0, idle_s=15.0)
RETRY_LIMITS = FetchLimits(max_bytes=0, total_s=120.0, connect_s=10.0, idle_s=120.0)
POLL_S = 1.0
"""A retry may come so late; the first attempt follows the job's end."""
AT_ONCE = 32
STOP_S = 3.0


def longest_delay_s(window_s: float) -> float:
    """Return how long a webhook may wait for its next attempt, of those within the window."""
    # with every delay as short and the window as long as chance makes them
    num_retries = int(math.log2(window_s * 1.1 / 0.9 / FIRST_DELAY_S + 1))
    return FIRST_DELAY_S * 2.0**num_retries * 1.1 / 2


class WebhookSender:
    """Send what is due, in the background, in one process at a time.

    outcomes: how many attempts ended how.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._task: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], Webhook] = {}
        self._look = asyncio.Event()
        self.outcomes = services.counters.webhooks

    def start(self) -> None:
        """Begin to deliver; belongs to the running event loop."""
        self._services.live.on_end(self._job_ended)
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """Let deliveries end for a moment; what is left is due again at the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=STOP_S)
        left = dict(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for webhook in left.values():
            with contextlib.suppress(StoreUnavailable):
                store = self._services.store
                await store.webhook_failed(webhook.id, "The server was stopped.", await store.now())

    async def deliver_due(self) -> int:
        """Start the deliveries that are due now and return how many these are."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        due = await self._services.store.due_webhooks(limit=room)
        for webhook in due:
            task = asyncio.create_task(self._deliver(webhook))
            self._under_way[task] = webhook
            task.add_done_callback(self._delivered)
        return len(due)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._look.set()  # there may have been no room for all

    async def settled(self) -> None:
        """Wait until no delivery is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _job_ended(self, job: Job) -> None:
        if job.webhook_url is not None:
            self._look.set()

    async def _run(self) -> None:
        store = self._services.store
        while True:
            self._look.clear()
            try:
                if await store.lead():
                    at = await store.next_webhook_at()
                    if at is not None and at <= await store.now():
                        await self.deliver_due()
            except StoreUnavailable as error:
                log.warning("Webhooks wait for the database: %s", error)
                await store.resign()
            except Exception:
                log.exception("Webhooks are put off")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._look.wait()

    async def _deliver(self, webhook: Webhook) -> None:
        with while_about(webhook.job_id):
            try:
                await self._attempt(webhook)
            except StoreUnavailable as error:
                # it is due again when its lease in the outbox is over
                log.warning("The outcome of webhook %s is not noted: %s", webhook.id, error)
            except Exception as error:
                log.exception("Webhook %s cannot be sent", webhook.id)
                with contextlib.suppress(StoreUnavailable):
                    await self._fail(webhook, f"It cannot be sent: {type(error).__name__}.")

    async def _attempt(self, webhook: Webhook) -> None:
        store = self._services.store
        job = await store.get(webhook.job_id)
        if job is None:
            await self._fail(webhook, "The request is not kept any more.", for_good=True)
            return
        status: int | None = None
        try:
            with self._services.tracer.span(
                "webhook", job.trace_context, "client", attempt=webhook.attempts + 1
            ):
                status = await self._post(webhook, job)
        except AddressRefused as error:
            await self._fail(webhook, error.message, for_good=True)
        except FetchFailed as error:
            await self._fail(webhook, error.message)
        else:
            if 200 <= status < 300:
                self.outcomes["delivered"] += 1
                await store.webhook_delivered(webhook.id, status)
            else:
                moved = 300 <= status < 400
                reason = "Redirects are not followed" if moved else "The receiver refused it"
                await self._fail(webhook, f"{reason}: status {status}.", status, for_good=moved)

    async def _post(self, webhook: Webhook, job: Job) -> int:
        body = to_json(webhook_body(job, f"{self._services.addresses.own}/cdn"))
        return await post_public(
            webhook.url,
            body,
            self._headers(job, body),
            FIRST_LIMITS if webhook.attempts == 0 else RETRY_LIMITS,
            self._services.policy.webhook_guard,
        )

    def _headers(self, job: Job, body: bytes) -> dict[str, str]:
        """Sign anew: receivers refuse a time that is five minutes away."""
        user, now = job.api_key_id or "anonymous", str(int(time.time()))
        digest = hashlib.sha256(body).hexdigest()
        message = "\n".join((job.id, user, now, digest)).encode()
        return {
            "Content-Type": "application/json",
            "X-Fal-Webhook-Request-Id": job.id,
            "X-Fal-Webhook-User-Id": user,
            "X-Fal-Webhook-Timestamp": now,
            "X-Fal-Webhook-Signature": self._services.signer.sign_webhook(message),
        }

    async def _fail(
        self, webhook: Webhook, reason: str, status: int | None = None, *, for_good: bool = False
    ) -> None:
        now = await self._services.store.now()
        again = None if for_good else self._next_attempt(webhook, now)
        self.outcomes["failed" if again is None else "retried"] += 1
        if again is None:
            log.warning("Webhook of request %s is given up: %s", webhook.job_id, reason)
        await self._services.store.webhook_failed(webhook.id, reason, again, status)

    def _next_attempt(self, webhook: Webhook, now: float) -> float | None:
        delay = FIRST_DELAY_S * 2.0 ** min(webhook.attempts, 20)
        at = now + delay * random.uniform(0.9, 1.1)
        last = webhook.created_at + self._services.settings.webhook_window_s * 1.1
        return at if at <= last else None
