"""The dashboard and the alerts: their expressions name metrics and labels that the service has."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from tests.conftest import ROOT
from tests.deploy.expressions import NAME, unknown_names
from tests.deploy.promtool import alerts_that_fire, promtool
from tests.service.recorded.surface import shape_of_metrics

DASHBOARD = ROOT / "deploy" / "grafana" / "rope-service.json"
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
UNIT_TESTS = ROOT / "deploy" / "prometheus" / "tests" / "rules.yaml"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


EXPRESSIONS = [*expressions()]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Labels of each sample, by its name; also of metrics that have no sample yet."""
    app = create_app(Settings(device="cpu", warm_up_shapes=""), Lifecycle())
    metrics = app.pages["/v1/recent"]._service.metrics
    found = {
        name: set(names)
        for name, names in shape_of_metrics(metrics.render().decode())["labels"].items()
    }
    for collector in [*metrics.registry._collector_to_names]:
        for name in metrics.registry._collector_to_names[collector]:
            found.setdefault(name, set()).update(getattr(collector, "_labelnames", ()))
    return found


@pytest.mark.parametrize(
    ("title", "expression"), EXPRESSIONS, ids=[each[0] for each in EXPRESSIONS]
)
def test_an_expression_names_metrics_and_labels_that_are_there(title, expression, labels):
    assert NAME.search(expression) or "up{" in expression, title
    assert unknown_names(expression, labels) == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(rope_request_total[5m])", ["rope_request_total"]),
        ('rope_refusals_total{status="503"}', ["rope_refusals_total{status}"]),
        ("sum by (tenant) (rope_queue_depth)", ["tenant"]),
    ],
)
def test_an_unknown_name_is_found(expression, expected, labels):
    assert unknown_names(expression, labels) == expected


def test_each_alert_has_a_test_a_sentence_and_a_remedy():
    tested = alerts_that_fire(yaml.safe_load(UNIT_TESTS.read_text()))
    assert tested == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", UNIT_TESTS)])
def test_promtool_accepts_the_rules(arguments):
    promtool(*arguments)


def test_the_dashboard_has_what_grafana_requires():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    assert {"uid", "title", "templating", "time"} <= set(dashboard)
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["Requests", "Latency", "Queue", "Device", "Calls a run"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["type"] in ("timeseries", "heatmap")
            assert panel["datasource"]["uid"] == "${datasource}"
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
