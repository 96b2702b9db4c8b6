"""Count what the catalogue names, carry it as JSON, and put it together for the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)

from .catalogue import BY_NAME, METRICS, Metric, Origin

M = TypeVar("M", Counter, Gauge, Histogram)
Row = tuple[list[str], list[float]]
Snapshot = dict[str, list[Row]]
"""Per metric: label values, and [value], or [sum, cumulative counts by bucket and in all]."""


class Meters:
    """Hold the numbers of one process; several threads may count."""

    def __init__(self, origin: Origin) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._meters = {m.name: self._meter(m) for m in METRICS if m.origin == origin}

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        self._child(name, Counter, labels).inc(amount)

    def observe(self, name: str, value: float, times: int = 1, /, **labels: str) -> None:
        """Add a value to a histogram, several times if need be."""
        child = self._child(name, Histogram, labels)
        for _ in range(times):
            child.observe(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, Gauge, labels).set(value)

    def snapshot(self) -> Snapshot:
        """Return all numbers as they are now, ready for JSON."""
        return {name: list(_rows(BY_NAME[name], meter)) for name, meter in self._meters.items()}

    def _meter(self, metric: Metric) -> Counter | Gauge | Histogram:
        told = metric.name, metric.text, metric.labels
        if metric.kind == "counter":
            return Counter(*told, registry=self._registry)
        if metric.kind == "gauge":
            return Gauge(*told, registry=self._registry)
        return Histogram(*told, registry=self._registry, buckets=metric.buckets)

    def _child(self, name: str, kind: type[M], labels: Mapping[str, str]) -> M:
        meter = self._meters[name]
        if not isinstance(meter, kind):
            raise TypeError(f"{name} is a {BY_NAME[name].kind}")
        return meter.labels(**labels) if BY_NAME[name].labels else meter


def _rows(metric: Metric, meter: Counter | Gauge | Histogram) -> Iterator[Row]:
    found: dict[tuple[str, ...], list[float]] = {}
    for family in meter.collect():
        for sample in family.samples:
            values = found.setdefault(tuple(sample.labels[name] for name in metric.labels), [])
            if sample.name.endswith("_sum"):
                values.insert(0, sample.value)
            elif sample.name == metric.name or sample.name.endswith("_bucket"):
                values.append(sample.value)
    for labels, values in found.items():
        yield list(labels), values


def families(snapshots: Iterable[tuple[Snapshot, Mapping[str, str]]]) -> Iterator[Family]:
    """Join snapshots, each with more labels of its own, into what Prometheus is told.

    Every metric of the catalogue is named, also without a number. A worker of another version may
    tell of metrics that are unknown here; they are passed over.
    """
    rows: dict[str, list[tuple[dict[str, str], list[float]]]] = {}
    for snapshot, more in snapshots:
        for name, told in snapshot.items():
            metric = BY_NAME.get(name)
            if metric is None:
                continue
            for labels, values in told:
                named = dict(zip(metric.labels, labels, strict=False)) | dict(more)
                if named.keys() == set(metric.exported_labels) and _whole(metric, values):
                    rows.setdefault(name, []).append((named, values))
    for metric in METRICS:
        yield _family(metric, rows.get(metric.name, ()))


def _whole(metric: Metric, values: list[float]) -> bool:
    return len(values) == (len(metric.buckets) + 2 if metric.kind == "histogram" else 1)


def _family(metric: Metric, rows: Iterable[tuple[dict[str, str], list[float]]]) -> Family:
    names = metric.exported_labels
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=names)
        bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
        for labels, (total, *counts) in rows:
            histogram.add_metric(
                [labels[name] for name in names], list(zip(bounds, counts, strict=True)), total
            )
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=names)
    for labels, (value,) in rows:
        family.add_metric([labels[name] for name in names], value)
    return family
