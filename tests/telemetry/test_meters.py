"""What is counted comes out, through JSON, as it was counted."""

import json

import pytest

from glmimage.telemetry.catalogue import METRICS
from glmimage.telemetry.meters import Meters, families


def samples(snapshots):
    told = [(json.loads(json.dumps(snapshot)), more) for snapshot, more in snapshots]
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(told)
        for sample in family.samples
    }


def test_numbers_of_two_workers_stay_apart():
    told = []
    for name, pictures in (("a", 2), ("b", 3)):
        meters = Meters("worker")
        meters.count("glmimage_pictures_total", pictures)
        meters.observe("glmimage_acceptance_length", 3, 4)
        meters.observe("glmimage_acceptance_length", 100)
        meters.set("glmimage_jobs_in_hand", 1)
        told.append((meters.snapshot(), {"worker": name}))
    found = samples(told)
    for name, pictures in (("a", 2), ("b", 3)):
        worker = ("worker", name)
        assert found["glmimage_pictures_total", worker] == pictures
        assert found["glmimage_jobs_in_hand", worker] == 1
        assert found["glmimage_acceptance_length_sum", worker] == 112
        assert found["glmimage_acceptance_length_count", worker] == 5
        assert found["glmimage_acceptance_length_bucket", ("le", "2.0"), worker] == 0
        assert found["glmimage_acceptance_length_bucket", ("le", "16.0"), worker] == 4
        assert found["glmimage_acceptance_length_bucket", ("le", "+Inf"), worker] == 5


def test_what_is_not_in_the_catalogue_cannot_be_counted():
    meters = Meters("worker")
    for name in ("glmimage_of_my_own_total", "glmimage_http_requests_total"):
        with pytest.raises(KeyError):
            meters.count(name)
    with pytest.raises(TypeError):
        meters.count("glmimage_stage_seconds", stage="prior")
    with pytest.raises(ValueError, match="label"):
        meters.count("glmimage_busy_seconds_total", phase="prior")


def test_names_follow_the_rules_of_prometheus():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("glmimage_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
        assert "worker" not in metric.labels
