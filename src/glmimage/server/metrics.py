"""Numbers for Prometheus, counted since the process began."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from ..jobs import Worker
from .routing import Route
from .services import Services

WORKER_SEEN_S = 60.0


async def metrics(services: Services, request: Request) -> Response:
    """Answer in Prometheus' text form."""
    workers = await services.store.live_workers(time.time() - WORKER_SEEN_S)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(services, workers))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Numbers(Collector):
    def __init__(self, services: Services, workers: list[Worker]) -> None:
        self.services, self.workers = services, workers

    def collect(self) -> Iterator[Metric]:
        counters = self.services.counters
        yield _counter(
            "glmimage_policy_refusals",
            "Prompts that were refused, by kind of content",
            "kind",
            self.services.policy.prompts.refusals,
        )
        for name, key, text in (
            ("glmimage_pictures_checked", "num_checked", "Finished pictures that were checked"),
            ("glmimage_pictures_flagged", "num_flagged", "Of these, returned black"),
        ):
            counts = {worker.id: int(worker.info.get(key, 0)) for worker in self.workers}
            yield _counter(name, text, "worker", Counter(counts))
        yield _counter(
            "glmimage_webhook_attempts",
            "Attempts to deliver webhooks, by outcome",
            "outcome",
            counters.webhooks,
        )
        yield _counter(
            "glmimage_swept", "What the sweeper has removed, by kind", "kind", counters.swept
        )
        yield GaugeMetricFamily(
            "glmimage_queue_length",
            "Requests that wait",
            value=self.services.live.queue_length(),
        )


def _counter(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


ROUTES = [Route("", "GET", "/metrics", metrics)]
