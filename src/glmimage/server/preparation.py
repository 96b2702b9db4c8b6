"""What happens before a job can be painted: references fetched, prompt moderated and expanded."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from functools import partial

from ..errors import GlmImageError
from ..jobs import Claim, Job, LeaseLost
from ..policy import Refusal
from ..policy.errors import NotConfigured, ServiceUnavailable
from ..telemetry.logs import while_about
from .fal.errors import ModelError, content_policy_violation, detail_item
from .fal.schemas import ImageToImageInput, TextToImageInput, validate
from .live_jobs import patiently
from .lora_names import lora_identities
from .references import fetch_missing
from .reuse_keys import prior_key
from .services import Services

LEASE_S = 30.0
MAX_AT_ONCE = 8
WAIT_S = 5.0
log = logging.getLogger(__name__)


async def prepare_jobs(services: Services) -> None:
    """Claim jobs of the `prepare` stage and make them ready, several at a time, for ever."""
    worker_id = f"prepare-{uuid.uuid4()}"
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            room = MAX_AT_ONCE - len(running)
            claims = await services.store.claim(worker_id, ["prepare"], room, LEASE_S)
            running |= {asyncio.create_task(_prepare(services, claim)) for claim in claims}
            if len(running) >= MAX_AT_ONCE:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif not claims:
                await services.store.wait_for_work(["prepare"], WAIT_S)
            running = {task for task in running if not task.done()}
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _prepare(services: Services, claim: Claim) -> None:
    """Prepare one job, with its time and its span."""
    job, began = claim.job, time.monotonic()
    with (
        while_about(job.id, job.trace_context),
        services.tracer.span("prepare", job.trace_context, attempt=claim.attempt),
    ):
        await _prepare_or_say_why(services, claim)
    services.counters.meters.observe("glmimage_prepare_seconds", time.monotonic() - began)


async def _prepare_or_say_why(services: Services, claim: Claim) -> None:
    """Prepare one job, or say why it cannot be; a job that is cancelled or lost is let go."""
    work = asyncio.create_task(_work(services, claim))
    beat = asyncio.create_task(_until_unwanted(services, claim))
    try:
        await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        elif beat.result() == "cancelled":
            await services.store.confirm_cancelled(claim)
    except LeaseLost:
        pass
    except asyncio.CancelledError:
        with suppress(GlmImageError):
            await services.store.hand_back(claim)
        raise
    except GlmImageError:
        log.exception("request %s could not be prepared", claim.job.id)
    finally:
        for task in (work, beat):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _until_unwanted(services: Services, claim: Claim) -> str:
    """Keep the lease; return "cancelled" or "lost"."""
    while True:
        beat = await patiently(partial(services.store.heartbeat, [claim], LEASE_S))
        if claim.job.id in beat.lost:
            return "lost"
        if claim.job.id in beat.cancelled:
            return "cancelled"
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE_S / 3):
                await _until_cancel_requested(services, claim.job.id)


async def _until_cancel_requested(services: Services, job_id: str) -> None:
    async for job in services.live.changes(job_id):
        if job.cancel_requested:
            return


async def _work(services: Services, claim: Claim) -> None:
    store = services.store
    try:
        await _make_ready(services, claim)
    except ModelError as error:
        await store.fail(claim, error.status, error.body)
    except ServiceUnavailable as error:
        message = f"{error.message} {error.hint}".strip()
        body = {"detail": [detail_item(error.code, message)]}
        await store.fail(claim, 500, body, retryable=True)
    except GlmImageError:
        raise
    except Exception:
        log.exception("preparing request %s failed", claim.job.id)
        body = {"detail": [detail_item("internal_server_error", "The request failed inside.")]}
        await store.fail(claim, 500, body, retryable=True)


async def _make_ready(services: Services, claim: Claim) -> None:
    job, policy = claim.job, services.policy
    document = dict(job.input or {})
    valid = validate(job.endpoint, document)
    if valid.enable_safety_checker:
        _accept(await policy.moderate_prompt(valid.prompt))
    if valid.enable_prompt_expansion:
        document["prompt"] = await _expand(services, job, valid)
    file_ids: list[str] = []
    identities: list[str] = []
    if isinstance(valid, ImageToImageInput):
        found = await fetch_missing(services, valid.image_urls, job.reference_file_ids, job.id)
        file_ids = [reference.file_id for reference in found]
        identities = [reference.identity for reference in found]
    key = prior_key(
        document["prompt"],
        (job.width, job.height),
        job.seed,
        job.num_images,
        identities,
        services.settings.model,
        lora_identities(services.settings, valid),
    )
    await patiently(partial(services.store.prepared, claim, document, file_ids, key))


async def _expand(services: Services, job: Job, valid: TextToImageInput) -> str:
    """Return the prompt to paint: what a language model makes of one is checked like any other."""
    policy = services.policy
    try:
        expansion = await policy.expander.expand_prompt(valid.prompt)
    except NotConfigured as error:
        message = f"{error.message} {error.hint}"
        loc = ("body", "enable_prompt_expansion")
        raise ModelError([detail_item(error.code, message, loc, None, True)]) from None
    if expansion.note:
        log.warning("%s", expansion.note)
        await services.store.log(job.id, expansion.note, "WARN")
    if valid.enable_safety_checker and expansion.expanded:
        _accept(policy.check_prompt(expansion.prompt))
        _accept(await policy.moderate_prompt(expansion.prompt))
    return expansion.prompt


def _accept(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise content_policy_violation(refusal.message)
