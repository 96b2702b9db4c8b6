"""Numbers for Prometheus: of this process, of the workers' heartbeats, and of the job store."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from ..jobs import Job, Worker
from ..telemetry.meters import Meters, Snapshot, families
from .fal.schemas import INPUTS
from .open_jobs import LINES
from .routing import Route

if TYPE_CHECKING:
    from .services import Services

WORKER_SEEN_S = 60.0
OUTCOMES = ("done", "cached", "fallback", "invalid", "refused", "failed", "cancelled", "timeout")
REASONS = (
    "queue_full",
    "rate_limit",
    "concurrent_requests_limit",
    "runner_scheduling_failure",
    "invalid",
)
DELIVERIES = ("delivered", "retried", "failed")
SWEPT = ("expired", "orphans", "unfinished", "parts", "results", "history")


async def metrics(services: Services, request: Request) -> Response:
    """Answer in Prometheus' text form."""
    workers = await services.store.live_workers(await services.store.now() - WORKER_SEEN_S)
    snapshots: list[tuple[Snapshot, Mapping[str, str]]] = [
        (services.counters.meters.snapshot(), {}),
        (_counted(services), {}),
        (_queues(services), {}),
        (_rosters(workers), {}),
        (await _stored(services), {}),
    ]
    for worker in workers:
        told = worker.info.get("figures")
        if isinstance(told, dict):
            snapshots.append((told, {"worker": worker.id}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(snapshots))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def start_counting(services: Services) -> None:
    """Count every job that ends, and how long it took.

    What can be named beforehand is there at 0, so that its first event already is a rise.
    """
    meters = services.counters.meters
    for endpoint in INPUTS:
        for outcome in OUTCOMES:
            meters.count("glmimage_requests_total", 0, endpoint=endpoint, outcome=outcome)
        for reason in REASONS:
            meters.count("glmimage_requests_rejected_total", 0, endpoint=endpoint, reason=reason)
    for outcome in ("hit", "miss"):
        meters.count("glmimage_result_cache_total", 0, outcome=outcome)
    services.live.on_end(lambda job: _count_end(meters, job))


def outcome_of(job: Job) -> str:
    """Return the outcome that an ended job is counted under."""
    if job.state == "done":
        return {"cache": "cached", "fallback": "fallback"}.get(job.served_from or "", "done")
    if job.state == "cancelled":
        return "cancelled"
    if job.error_type == "content_policy_violation":
        return "refused"
    if job.status == 504:
        return "timeout"
    return "invalid" if job.status is not None and 400 <= job.status < 500 else "failed"


def _count_end(meters: Meters, job: Job) -> None:
    outcome = outcome_of(job)
    meters.count("glmimage_requests_total", endpoint=job.endpoint, outcome=outcome)
    if outcome != "done" or job.finished_at is None or job.started_at is None:
        return
    took, waited = job.finished_at - job.created_at, job.started_at - job.created_at
    meters.observe("glmimage_request_seconds", took, endpoint=job.endpoint)
    meters.observe("glmimage_queue_wait_seconds", waited, priority=job.priority)


class _Families(Collector):
    def __init__(self, snapshots: list[tuple[Snapshot, Mapping[str, str]]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        return families(self._snapshots)


def _counted(services: Services) -> Snapshot:
    """Return what is counted where it happens, and the disk."""
    counters, prompts = services.counters, services.policy.prompts
    disk = shutil.disk_usage(services.settings.data_dir)
    return {
        "glmimage_policy_refusals_total": _by_kind(prompts.refusals, prompts.kinds),
        "glmimage_webhook_attempts_total": _by_kind(counters.webhooks, DELIVERIES),
        "glmimage_swept_total": _by_kind(counters.swept, SWEPT),
        "glmimage_disk_size_bytes": [([], [disk.total])],
        "glmimage_disk_free_bytes": [([], [disk.free])],
    }


def _by_kind(
    counts: Mapping[str, float], known: Iterable[str]
) -> list[tuple[list[str], list[float]]]:
    named = dict.fromkeys(known, 0) | dict(counts)
    return [([kind], [float(number)]) for kind, number in sorted(named.items())]


def _queues(services: Services) -> Snapshot:
    found, now = services.live.open, time.time()
    ages = {line: max(0.0, now - (found.oldest(line) or now)) for line in LINES}
    return {
        "glmimage_queue_jobs": [(list(line), [found.waiting[line]]) for line in LINES],
        "glmimage_queue_oldest_seconds": [(list(line), [ages[line]]) for line in LINES],
        "glmimage_running_jobs": [
            ([stage], [found.running[stage]]) for stage in ("prepare", "prior", "decode")
        ],
    }


def _rosters(workers: list[Worker]) -> Snapshot:
    alive: Counter[tuple[str, str]] = Counter(
        (stage, "ready" if worker.ready else "loading")
        for worker in workers
        for stage in worker.stages
    )
    return {
        "glmimage_workers": [
            ([stage, state], [alive[stage, state]])
            for stage in ("prior", "decode")
            for state in ("ready", "loading")
        ]
    }


async def _stored(services: Services) -> Snapshot:
    figures, kinds = await services.store.figures(), await services.stored_files.figures()
    return {
        "glmimage_lease_losses_total": [([], [figures.lease_losses])],
        "glmimage_webhooks_pending": [([], [figures.webhooks_pending])],
        "glmimage_files": [([kind], [number]) for kind, (number, _) in kinds.items()],
        "glmimage_file_bytes": [([kind], [size]) for kind, (_, size) in kinds.items()],
    }


ROUTES = [Route("", "GET", "/metrics", metrics)]
