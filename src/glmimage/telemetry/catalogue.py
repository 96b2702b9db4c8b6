"""Every metric of the service; the table of docs/operations.md is made from it.

Nothing else can be counted. A metric's origin is one of

    gateway      counted in the process that answers the scrape, since it began
    worker       counted in a worker, carried by its heartbeat, exported with a label `worker`
    deployment   read from the job store, so every gateway exports the same
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Origin = Literal["gateway", "worker", "deployment"]

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ANSWER_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
NUMBERS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
TOKENS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0)


@dataclass(frozen=True)
class Metric:
    """Describe one metric. buckets: upper bounds of a histogram, without infinity."""

    name: str
    kind: Kind
    origin: Origin
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported_labels(self) -> tuple[str, ...]:
        """Return the labels as Prometheus sees them, without those of the scrape."""
        return (*self.labels, "worker") if self.origin == "worker" else self.labels

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names that queries may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


METRICS = (
    Metric(
        *("glmimage_http_requests_total", "counter", "gateway"),
        "HTTP requests that were answered",
        ("surface", "method", "status"),
    ),
    Metric(
        *("glmimage_http_answer_seconds", "histogram", "gateway"),
        "Time until an answer begins",
        ("surface",),
        ANSWER_SECONDS,
    ),
    Metric(
        *("glmimage_requests_total", "counter", "gateway"),
        "Requests for pictures that have ended: done, cached, fallback, invalid, refused, failed, "
        "cancelled, timeout; of the whole deployment",
        ("endpoint", "outcome"),
    ),
    Metric(
        *("glmimage_requests_rejected_total", "counter", "gateway"),
        "Requests that were not taken: queue_full, rate_limit, concurrent_requests_limit, "
        "runner_scheduling_failure (no worker), invalid (in OpenAI's and Z.ai's form)",
        ("endpoint", "reason"),
    ),
    Metric(
        *("glmimage_request_seconds", "histogram", "gateway"),
        "From submit to the end, of requests that were painted; of the whole deployment",
        ("endpoint",),
        SECONDS,
    ),
    Metric(
        *("glmimage_queue_wait_seconds", "histogram", "gateway"),
        "From submit to the first claim, of requests that were painted; of the whole deployment",
        ("priority",),
        SECONDS,
    ),
    Metric(
        *("glmimage_prepare_seconds", "histogram", "gateway"),
        "Fetching references, moderation and expansion before a request can be painted",
        (),
        SECONDS,
    ),
    Metric(
        *("glmimage_result_cache_total", "counter", "gateway"),
        "Requests with a seed looked up among the stored pictures: hit, miss",
        ("outcome",),
    ),
    Metric(
        *("glmimage_policy_refusals_total", "counter", "gateway"),
        "Prompts that were refused, by kind of content",
        ("kind",),
    ),
    Metric(
        *("glmimage_webhook_attempts_total", "counter", "gateway"),
        "Attempts to deliver webhooks: delivered, retried, failed",
        ("outcome",),
    ),
    Metric(
        *("glmimage_swept_total", "counter", "gateway"),
        "What the sweeper has removed: expired, orphans, unfinished, parts, results, history",
        ("kind",),
    ),
    Metric(
        *("glmimage_disk_size_bytes", "gauge", "gateway"),
        "Size of the file system that holds the data folder",
    ),
    Metric(
        *("glmimage_disk_free_bytes", "gauge", "gateway"),
        "What is free of it for this user",
    ),
    Metric(
        *("glmimage_queue_jobs", "gauge", "deployment"),
        "Requests that wait for a stage: prepare, prior, decode",
        ("stage", "priority"),
    ),
    Metric(
        *("glmimage_queue_oldest_seconds", "gauge", "deployment"),
        "Age of the oldest of them, 0 when none waits",
        ("stage", "priority"),
    ),
    Metric(
        *("glmimage_running_jobs", "gauge", "deployment"),
        "Requests that a worker has in hand",
        ("stage",),
    ),
    Metric(
        *("glmimage_workers", "gauge", "deployment"),
        "Workers seen in the last minute that take a stage: ready, loading",
        ("stage", "state"),
    ),
    Metric(
        *("glmimage_lease_losses_total", "counter", "deployment"),
        "Leases that ran out before their worker came back, since the database was made",
    ),
    Metric(
        *("glmimage_webhooks_pending", "gauge", "deployment"),
        "Webhooks that are still to be delivered",
    ),
    Metric(*("glmimage_files", "gauge", "deployment"), "Stored files", ("kind",)),
    Metric(
        *("glmimage_file_bytes", "gauge", "deployment"),
        "Their size: output, upload, reference, preview; read once a minute",
        ("kind",),
    ),
    Metric(
        *("glmimage_stage_seconds", "histogram", "worker"),
        "Time of a picture in a stage, mates included: prior, denoise, decode; store for its job",
        ("stage",),
        SECONDS,
    ),
    Metric(
        *("glmimage_busy_seconds_total", "counter", "worker"),
        "Time the engine has worked for a stage: prior, denoise, decode",
        ("stage",),
    ),
    Metric(*("glmimage_pictures_total", "counter", "worker"), "Pictures painted"),
    Metric(*("glmimage_prior_tokens_total", "counter", "worker"), "Prior tokens written"),
    Metric(*("glmimage_denoise_steps_total", "counter", "worker"), "Denoise steps of pictures"),
    Metric(
        *("glmimage_batch_size", "histogram", "worker"),
        "Pictures that share a pass of the prior, or a denoise step: prior, denoise",
        ("stage",),
        NUMBERS,
    ),
    Metric(
        *("glmimage_acceptance_length", "histogram", "worker"),
        "Tokens a picture gains in a pass of the prior; 1 where nothing is guessed",
        (),
        TOKENS,
    ),
    Metric(
        *("glmimage_prior_cache_total", "counter", "worker"),
        "Requests whose prior was looked up among the stored ones: hit, miss",
        ("outcome",),
    ),
    Metric(*("glmimage_pictures_checked_total", "counter", "worker"), "Pictures checked"),
    Metric(*("glmimage_pictures_flagged_total", "counter", "worker"), "Of these, returned black"),
    Metric(*("glmimage_jobs_in_hand", "gauge", "worker"), "Requests that the worker has claimed"),
    Metric(
        *("glmimage_worker_memory_bytes", "gauge", "worker"),
        "Main memory of the worker process",
    ),
    Metric(
        *("glmimage_gpu_memory_bytes", "gauge", "worker"),
        "Memory of the worker's GPU: total, free, reserved and allocated by the worker; not "
        "exported on a CPU",
        ("kind",),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
