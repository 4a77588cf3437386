"""The schemas find wrong fields and unknown kinds."""

import copy

import pytest

from tests.deploy.manifests.schemas import VERSIONS, schema_errors

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 1}]}]},
        },
    },
}
MONITOR = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "ServiceMonitor",
    "metadata": {"name": "a"},
    "spec": {"selector": {"matchLabels": {"app": "a"}}, "endpoints": [{"port": "http"}]},
}
SCALED = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "a"},
    "spec": {
        "scaleTargetRef": {"name": "a"},
        "triggers": [{"type": "prometheus", "metadata": {"query": "up"}}],
    },
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("valid", [DEPLOYMENT, MONITOR, SCALED], ids=lambda each: each["kind"])
def test_valid_objects_pass(valid, version):
    assert schema_errors(valid, version) == []


@pytest.mark.parametrize(
    ("valid", "path", "value", "expected"),
    [
        (DEPLOYMENT, ("spec", "replica"), 1, "replica"),
        (DEPLOYMENT, ("spec", "replicas"), "one", "$.spec.replicas"),
        (DEPLOYMENT, ("metadata", "label"), {}, "label"),
        (DEPLOYMENT, ("spec", "template", "spec", "enableServiceLink"), True, "enableServiceLink"),
        (DEPLOYMENT, ("kind",), "Deploiment", "no schema"),
        (DEPLOYMENT, ("apiVersion",), "apps/v1beta1", "no schema"),
        (MONITOR, ("spec", "endpoints", 0, "intervall"), "3s", "$.spec.endpoints.0.intervall"),
        (MONITOR, ("spec", "endpoints", 0, "interval"), "3 s", "$.spec.endpoints.0.interval"),
        (MONITOR, ("spec", "selector", "match_labels"), {}, "match_labels"),
        (MONITOR, ("metadata", "label"), {}, "label"),
        (MONITOR, ("kind",), "ServiceMonitors", "no schema"),
        (MONITOR, ("apiVersion",), "monitoring.coreos.com/v2", "no schema"),
        (SCALED, ("spec", "minReplicas"), 1, "minReplicas"),
        (SCALED, ("spec", "triggers", 0, "metadata", "threshold"), 3, "threshold"),
    ],
)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_a_wrong_field_is_found(valid, path, value, expected, version):
    wrong = copy.deepcopy(valid)
    at = wrong
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert expected in "\n".join(schema_errors(wrong, version))


@pytest.mark.parametrize(
    "nothing", [{}, {"kind": "Service"}, {"apiVersion": "v1", "kind": "Service", "metadata": None}]
)
def test_an_object_without_kind_or_name_is_an_error(nothing):
    assert schema_errors(nothing)
