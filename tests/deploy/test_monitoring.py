"""Dashboard and alerts ask for what exists; the alerts fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

from glmimage.telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "glmimage.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "glmimage.json"
PROMTOOL = shutil.which("promtool")
SCRAPED = {"instance", "job", "pod"}
"""Labels that Prometheus adds."""
LABELS = {
    series: {*metric.exported_labels, *({"le"} if series.endswith("_bucket") else ())}
    for metric in METRICS
    for series in metric.series
} | {"up": set()}

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel.get("targets")]


def queries():
    """Return (where, query) of all alerts and panels."""
    return [(rule["alert"], rule["expr"]) for rule in rules()] + [
        (panel["title"], target["expr"].replace("$__rate_interval", "5m"))
        for panel in panels()
        for target in panel["targets"]
    ]


def parts(node):
    """Give a query's syntax tree, node by node."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from parts(inner)
    for inner in getattr(node, "args", ()) or ():
        yield from parts(inner)


def selectors(query):
    return [part for part in parts(promql.parse(query)) if isinstance(part, promql.VectorSelector)]


def groupings(query):
    """Give the labels of each aggregation with the labels of what is beneath it."""
    for part in parts(promql.parse(query)):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            below = [one for one in parts(part.expr) if isinstance(one, promql.VectorSelector)]
            yield set(part.modifier.labels), [LABELS[one.name] for one in below]


@pytest.mark.parametrize(("where", "query"), queries())
def test_a_query_asks_for_metrics_and_labels_that_exist(where, query):
    found = selectors(query)
    assert found
    for selector in found:
        assert selector.name in LABELS, selector.name
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= LABELS[selector.name] | SCRAPED, (selector.name, asked)
    for labels, beneath in groupings(query):
        for known in beneath:
            assert labels <= known | SCRAPED, labels


@pytest.mark.parametrize(("where", "query"), queries())
def test_what_every_gateway_exports_is_not_added_up(where, query):
    """A copy is taken by max before any sum; see "Metrics" in docs/operations.md."""
    shared = {
        series
        for metric in METRICS
        if metric.origin != "gateway" or "whole deployment" in metric.text
        for series in metric.series
    }

    def check(node, copied):
        if isinstance(node, promql.VectorSelector):
            assert copied or node.name not in shared, node.name
        here = copied or (isinstance(node, promql.AggregateExpr) and str(node.op) == "max")
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            inner = getattr(node, name, None)
            if inner is not None:
                check(inner, here)
        for inner in getattr(node, "args", ()) or ():
            check(inner, here)

    check(promql.parse(query), copied=False)


def test_a_wrong_query_would_be_found():
    for query in (
        "glmimage_of_nothing",
        'glmimage_queue_jobs{state="a"}',
        "sum by (state) (glmimage_queue_jobs)",
    ):
        with pytest.raises(AssertionError):
            test_a_query_asks_for_metrics_and_labels_that_exist("", query)
    with pytest.raises(AssertionError):
        test_what_every_gateway_exports_is_not_added_up("", "sum(glmimage_queue_jobs)")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_are_left(panel):
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "5m")
        kinds = promql.AggregateExpr | promql.VectorSelector
        outer = next(part for part in parts(promql.parse(query)) if isinstance(part, kinds))
        kept = SCRAPED
        if isinstance(outer, promql.AggregateExpr):
            kept = set(outer.modifier.labels) if outer.modifier else set()
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept


def test_every_metric_is_on_the_dashboard():
    shown = {selector.name for _, query in queries() for selector in selectors(query)}
    missing = [metric.name for metric in METRICS if not shown & set(metric.series)]
    assert missing == []


def test_panels_do_not_cover_each_other():
    cells = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & mine, panel["title"]
        cells |= mine


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", str(RULES)],
        ["check", "config", "--syntax-only", str(ROOT / "deploy/prometheus/prometheus.yml")],
        ["test", "rules", "alerts.yaml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments):
    done = subprocess.run(
        [PROMTOOL, *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_silent_and_firing():
    checks = [
        check
        for case in yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())["tests"]
        for check in case["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in rules()}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == alerts
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == alerts


def test_every_alert_says_what_to_do():
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "action"}


def test_documents_name_alerts_that_exist():
    named = set(re.findall(r"`(Glmimage\w+)`", (ROOT / "docs" / "policy.md").read_text("utf-8")))
    assert named
    assert named <= {rule["alert"] for rule in rules()}
