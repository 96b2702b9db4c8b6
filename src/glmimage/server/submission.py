"""From a request's body to a job: the one way in, for every surface."""

from __future__ import annotations

import json
import logging
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection

from ..jobs import Job, NewJob, QueueFull
from ..jobs.records import PREVIEW_FIELD, REUSE_FIELD, Surface
from ..telemetry.logs import about_request
from .capacity import queue_full, same_prompt
from .fal.caller import Caller
from .fal.errors import ModelError, RequestError, content_policy_violation
from .fal.schemas import ImageToImageInput, TextToImageInput, stored_input, validate
from .lora_names import lora_identities
from .references import Reference, origin_of, resolve_now, shorten_urls
from .reuse_keys import prior_key, result_key
from .services import Services

log = logging.getLogger(__name__)
DIRECT: frozenset[str] = frozenset({"run", "stream", "realtime", "openai"})
"""Surfaces whose caller holds a connection open and does not wait in a queue."""
MAX_STORED_FIELD = 2000
FALLBACK_SCAN = 500
"""Finished requests that are looked through for one of the same prompt."""


@dataclass(frozen=True)
class Submission:
    """Hold a request on its way to become a job.

    body: as the caller sent it, in fal's words. for_worker: what fal has no words for, added to the
    stored input: `encoding` ({"format", "quality"}), `preview`.
    """

    endpoint: str
    body: Mapping[str, Any]
    caller: Caller
    surface: Surface
    origin: str
    webhook_url: str | None = None
    max_queue_length: int | None = None
    for_worker: Mapping[str, Any] = field(default_factory=dict)
    trace_parent: str | None = None


class Submitted(NamedTuple):
    job: Job
    position: int


def submission_of(
    connection: HTTPConnection,
    services: Services,
    endpoint: str,
    body: Mapping[str, Any],
    caller: Caller,
    surface: Surface,
) -> Submission:
    """Build a submission from what every surface has at hand."""
    origin, parent = origin_of(services, connection), connection.headers.get("traceparent")
    return Submission(endpoint, body, caller, surface, origin, trace_parent=parent)


async def submit(services: Services, asked: Submission) -> Submitted:
    """Store the request as a job; an invalid or refused one as a job that has failed already.

    Raise RequestError when the server cannot take any request now.
    """
    job_id = str(uuid.uuid4())
    values = {"endpoint": asked.endpoint, "surface": asked.surface, "request_id": job_id}
    with services.tracer.span("submit", asked.trace_parent, "server", **values) as trace:
        about_request(job_id, trace)
        try:
            taken = await _submit(services, replace(asked, trace_parent=trace), job_id)
        except RequestError as error:
            why = {"endpoint": asked.endpoint, "reason": str(error.body["error_type"])}
            services.counters.meters.count("glmimage_requests_rejected_total", **why)
            log.warning("Request not taken: %s", error.body["detail"])
            raise
    _log_taken(services, asked, taken)
    return taken


def _log_taken(services: Services, asked: Submission, taken: Submitted) -> None:
    told = {"endpoint": asked.endpoint, "surface": asked.surface, "api_key_id": asked.caller.key_id}
    if services.settings.log_prompts:
        told["prompt"] = str(asked.body.get("prompt"))
    job = taken.job
    if job.ended:
        log.info("Request answered at once: %s %s", job.state, job.error_type or "", extra=told)
    else:
        log.info("Request taken, %d ahead", taken.position, extra=told)


async def _submit(services: Services, asked: Submission, job_id: str) -> Submitted:
    services.keys.count_request(asked.caller.key)
    if asked.surface in DIRECT:
        services.capacity.check_concurrency(asked.caller.key)
    caller = asked.caller
    lifecycle = await services.storage_settings.complete(caller.key_id, caller.lifecycle)
    asked = replace(asked, caller=replace(caller, lifecycle=lifecycle))
    try:
        valid = validate(asked.endpoint, asked.body)
        _check_prompt(services, valid)
        lora_identities(services.settings, valid)
        references = await _resolve(services, asked, valid, job_id)
    except ModelError as error:
        return await _refuse(services, asked, job_id, error)
    seed = secrets.randbelow(2**32) if valid.seed is None else valid.seed
    new = _new_job(services, asked, valid, seed, references, job_id)
    cached = await _from_cache(services, asked, valid, new)
    if cached is not None:
        return cached
    return await _enqueue(services, asked, valid, new)


def _check_prompt(services: Services, valid: TextToImageInput) -> None:
    if not valid.enable_safety_checker:
        return
    refusal = services.policy.check_prompt(valid.prompt)
    if refusal is not None:
        raise content_policy_violation(refusal.message)


async def _resolve(
    services: Services, asked: Submission, valid: TextToImageInput, job_id: str
) -> list[Reference | None]:
    if not isinstance(valid, ImageToImageInput):
        return []
    return await resolve_now(services, valid.image_urls, job_id, asked.caller.key_id, asked.origin)


async def _refuse(
    services: Services, asked: Submission, job_id: str, error: ModelError
) -> Submitted:
    new = replace(_common(services, asked, job_id), input=_bounded(asked.body), width=0, height=0)
    job = await services.store.insert_failed(new, error.status, error.body)
    services.live.put(job)
    return Submitted(job, 0)


def _common(services: Services, asked: Submission, job_id: str) -> NewJob:
    caller = asked.caller
    return NewJob(
        id=job_id,
        endpoint=asked.endpoint,
        input={},
        api_key_id=caller.key_id,
        priority=caller.priority,
        max_queue_length=services.capacity.queue_limit(asked.max_queue_length),
        webhook_url=asked.webhook_url,
        lifecycle=caller.lifecycle,
        store_io=caller.store_io,
        max_attempts=services.settings.max_attempts if caller.retry else 1,
        surface=asked.surface,
        trace_context=asked.trace_parent,
    )


def _new_job(
    services: Services,
    asked: Submission,
    valid: TextToImageInput,
    seed: int,
    references: Sequence[Reference | None],
    job_id: str,
) -> NewJob:
    width, height = valid.size()
    known = [reference for reference in references if reference is not None]
    whole = len(known) == len(references)
    slow = not whole or valid.enable_prompt_expansion
    if valid.enable_safety_checker and services.policy.moderates:
        slow = True
    identities = [reference.identity for reference in known]
    model = services.settings.model
    encoding = asked.for_worker.get("encoding")
    loras = lora_identities(services.settings, valid)
    return replace(
        _common(services, asked, job_id),
        input=shorten_urls(stored_input(valid))
        | dict(asked.for_worker)
        | ({PREVIEW_FIELD: asked.caller.num_previews} if asked.caller.num_previews else {})
        | ({} if asked.caller.use_cache else {REUSE_FIELD: False}),
        width=width,
        height=height,
        seed=seed,
        num_images=valid.num_candidates,
        # pictures that come as data URIs are not to be kept
        store_io=asked.caller.store_io and not valid.sync_mode,
        needs_preparation=slow,
        cache_key=result_key(asked.endpoint, valid, seed, identities, model, encoding, loras)
        if whole and not valid.sync_mode
        else None,
        prior_key=prior_key(
            valid.prompt, (width, height), seed, valid.num_candidates, identities, model, loras
        )
        if not slow
        else None,
        reference_file_ids=tuple(r.file_id if r is not None else "" for r in references),
    )


async def _from_cache(
    services: Services, asked: Submission, valid: TextToImageInput, new: NewJob
) -> Submitted | None:
    """Answer from the stored pictures of an equal request, as long as their files live."""
    if valid.seed is None or new.cache_key is None:
        return None
    if not (services.settings.result_cache and asked.caller.use_cache):
        return None
    found = await services.store.find_cached_result(new.cache_key)
    hit = found is not None and await _files_serve(services, found, asked.caller)
    services.counters.meters.count("glmimage_result_cache_total", outcome="hit" if hit else "miss")
    if found is None or not hit:
        return None
    message = f"Answered from the stored pictures of request {found.id}; nothing was painted."
    return await _answer(services, new, found, "cache", message)


async def _enqueue(
    services: Services, asked: Submission, valid: TextToImageInput, new: NewJob
) -> Submitted:
    try:
        await services.capacity.check_workers()
        if asked.caller.start_timeout_s is not None:
            deadline = await services.store.now() + asked.caller.start_timeout_s
            new = replace(new, start_deadline=deadline)
        job, position = await services.store.enqueue(new)
    except (QueueFull, RequestError) as error:
        refusal = queue_full(error) if isinstance(error, QueueFull) else error
        # a limit that the caller set is an answer the caller asked for
        own_limit = isinstance(error, QueueFull) and asked.max_queue_length == error.limit
        found = None if own_limit else await _find_fallback(services, asked, valid)
        if found is None:
            raise refusal from None
        message = f"{refusal.body['detail']} Answered with the pictures of request {found.id}."
        return await _answer(services, new, found, "fallback", message)
    services.live.put(job)
    return Submitted(job, position)


async def _find_fallback(
    services: Services, asked: Submission, valid: TextToImageInput
) -> Job | None:
    """Return the newest request of the same prompt whose pictures are still there."""
    if not (services.settings.fallback and asked.caller.use_fallback) or valid.sync_mode:
        return None
    stored = await services.store.requests(
        asked.endpoint, statuses=[(200, 200)], with_payloads=True, limit=FALLBACK_SCAN
    )
    for job in stored:
        if same_prompt(job, valid.prompt) and await _files_serve(services, job, asked.caller):
            return job
    return None


async def _answer(
    services: Services, new: NewJob, found: Job, served_from: str, message: str
) -> Submitted:
    assert found.result is not None
    result = {**found.result, "timings": {"inference": 0.0}}
    new = replace(new, num_images=found.num_images, width=found.width, height=found.height)
    job = await services.store.insert_done(new, result, served_from)
    await services.store.log(job.id, message)
    # read again, so that the very next poll shows the log
    services.live.put(await services.store.get(job.id) or job)
    return Submitted(job, 0)


async def _files_serve(services: Services, job: Job, caller: Caller) -> bool:
    """Say whether every picture of a finished job is there, open to whom this caller wants."""
    images = (job.result or {}).get("images") or []
    now, wanted = time.time(), (caller.lifecycle or {}).get("initial_acl")
    for image in images:
        record = await services.store.get_file(image["file_id"]) if "file_id" in image else None
        if record is None or (record.expires is not None and record.expires <= now):
            return False
        if (record.acl or wanted) and (record.acl != wanted or record.owner != caller.key_id):
            return False
    return bool(images)


def _bounded(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an invalid input as it is kept for the history: no field longer than a page."""
    kept: dict[str, Any] = {}
    for name, value in islice(body.items(), 50):
        try:
            size = len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            size = MAX_STORED_FIELD + 1
        kept[name[:100]] = value if size <= MAX_STORED_FIELD else f"... ({size} characters)"
    return kept
