"""Monitors, alerts and the dashboard of the chart."""

import json

import pytest
import yaml

from tests.deploy.manifests.references import dangling
from tests.deploy.manifests.render import ROOT, merge, of_kind, profile, refusal, render
from tests.deploy.manifests.schemas import VERSIONS, schema_errors

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "rope-service.json"

KINDS = {"serviceMonitor": "ServiceMonitor", "podMonitor": "PodMonitor"}
LABELS = {"labels": {"release": "kube-prometheus-stack"}, "annotations": {"a": "b"}}
KEYS = {"keys": {"enabled": True, "existingSecret": "rope-keys"}}
TLS = {"tls": {"enabled": True, "existingSecret": "rope-tls"}}
MUTUAL = merge(TLS, {"tls": {"clientCa": {"enabled": True, "existingSecret": "ca"}}})
ON_HTTP = {"ports": {"status": 0}, "probes": {"handler": "http"}}


def enabled(name, **more):
    return {"metrics": {name: {"enabled": True, **more}}}


def of_values(kind, *layers):
    """Return the only object of a kind; fail if it is not valid or has a dangling reference."""
    objects = render(merge(*layers))
    (found,) = of_kind(objects, kind)
    assert [error for version in VERSIONS for error in schema_errors(found, version)] == []
    assert dangling(objects, ("rope-keys", "rope-tls", "rope-session-key", "ca")) == []
    return found


def endpoint(monitor):
    (found,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
    return found


def test_by_default_nothing_of_the_operator_is_there():
    kinds = (*KINDS.values(), "PrometheusRule")
    assert not of_kind(render(), *kinds)


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
@pytest.mark.parametrize("values", [{}, profile("sessions"), {"service": {"type": "LoadBalancer"}}])
def test_a_monitor_reads_the_status_port_with_the_job_of_the_alerts(name, kind, values):
    key = {"name": "metrics-key", "key": "key"}
    found = of_values(kind, values, enabled(name, keySecret=key, **LABELS))
    assert found["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert found["metadata"]["annotations"]["a"] == "b"
    at = endpoint(found)
    assert (at["port"], at["path"], at["scheme"]) == ("status", "/metrics", "http")
    assert {"targetLabel": "job", "replacement": "rope-service"} in at["relabelings"]
    assert "tlsConfig" not in at
    assert ("authorization" in at) is bool(values.get("keys"))


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_monitor_has_the_key_and_the_tls_that_the_port_needs(name, kind):
    secret = {"name": "metrics-key", "key": "token"}
    found = endpoint(of_values(kind, KEYS, TLS, ON_HTTP, enabled(name, keySecret=secret)))
    assert (found["port"], found["scheme"]) == ("http", "https")
    assert found["authorization"] == {"type": "Bearer", "credentials": secret}
    tls = {"cert": {"secret": {"name": "client", "key": "tls.crt"}}}
    tls |= {"keySecret": {"name": "client", "key": "tls.key"}}
    found = endpoint(of_values(kind, MUTUAL, enabled(name, tlsConfig=tls)))
    assert found["tlsConfig"] == tls


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (merge(enabled("serviceMonitor"), enabled("podMonitor")), "read each pod twice"),
        (KEYS, "metrics.NAME.keySecret.name is missing"),
        ({"metrics": {"servicemonitor": {}}}, "'servicemonitor'"),
    ],
)
def test_a_monitor_that_cannot_work_is_refused(name, values, sentence):
    assert sentence.replace("NAME", name) in refusal(merge(enabled(name), values))
    assert "interval" in refusal(enabled(name, interval="15 s"))


def test_the_rules_are_those_of_the_repository():
    """tests/deploy/test_watching.py runs the unit tests of that file."""
    found = of_values("PrometheusRule", enabled("prometheusRule", **LABELS))
    assert found["spec"] == yaml.safe_load(RULES.read_text())


def test_more_groups_of_rules_are_added():
    group = {"name": "ours", "rules": [{"record": "rope:up", "expr": "up"}]}
    found = of_values("PrometheusRule", enabled("prometheusRule", extraGroups=[group]))
    assert [each["name"] for each in found["spec"]["groups"]] == ["rope-service", "ours"]
    assert found["spec"]["groups"][1] == group


def test_the_dashboard_is_that_of_the_repository():
    found = of_values("ConfigMap", enabled("dashboard", annotations={"grafana_folder": "RoPE"}))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"]["grafana_folder"] == "RoPE"
    (text,) = found["data"].values()
    assert json.loads(text) == json.loads(DASHBOARD.read_text())
