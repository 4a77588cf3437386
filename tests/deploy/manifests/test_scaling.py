"""Autoscalers: their metrics, how fast they change the number of pods, and refused values."""

from typing import Any

import pytest
import yaml

from tests.deploy.manifests.references import dangling
from tests.deploy.manifests.render import ROOT, Values, merge, of_kind, profile, refusal, render
from tests.deploy.manifests.schemas import VERSIONS, schema_errors

KEYS = {"keys": {"enabled": True, "existingSecret": "rope-keys"}}
SESSIONS = merge(profile("sessions"), {"fullnameOverride": "rope"})
HPA = {"autoscaling": {"hpa": {"enabled": True}}}
KEDA = {"autoscaling": {"keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}}}
NO_TARGET = {"autoscaling": {"targets": {"busy": 0, "queue": 0, "memory": 0}}}

ADAPTER = ROOT / "deploy" / "prometheus" / "adapter.yaml"


def hpa(*layers: Values) -> dict[str, Any]:
    (found,) = of_kind(render(merge(HPA, *layers)), "HorizontalPodAutoscaler")
    return found["spec"]


def scaled_object(*layers: Values) -> dict[str, Any]:
    (found,) = of_kind(render(merge(KEDA, *layers)), "ScaledObject")
    return found["spec"]


def triggers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each["metadata"] for each in spec["triggers"]}


def behavior(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, SESSIONS, {"commonAnnotations": {"a": "b"}}])
def test_autoscalers_are_valid(values, version):
    objects = render(merge(HPA, values)) + of_kind(render(merge(KEDA, values)), "ScaledObject")
    found = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    assert len(found) == 2
    assert [error for each in found for error in schema_errors(each, version)] == []
    assert dangling(objects, ("rope-keys", "rope-session-key")) == []


def test_by_default_no_autoscaler_is_there():
    assert not of_kind(render(), "HorizontalPodAutoscaler", "ScaledObject")


def test_keda_measures_each_share_by_prometheus():
    spec = scaled_object()
    assert {name: each["threshold"] for name, each in triggers(spec).items()} == {
        "busy": "0.7",
        "queue": "0.3",
        "memory": "0.6",
    }
    for trigger in spec["triggers"]:
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        # KEDA 2.12 removed metricName, and refuses what is not text
        assert "metricName" not in trigger["metadata"]
        assert all(isinstance(each, str) for each in trigger["metadata"].values())
        assert trigger["metadata"]["serverAddress"] == "http://prometheus:9090"
        # without samples the number of pods stays as it is
        assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 8)


def test_sessions_add_their_reserved_memory_and_the_pods_that_have_some():
    assert {"kv", "occupied"} <= triggers(scaled_object(SESSIONS)).keys()
    assert {each["pods"]["metric"]["name"] for each in hpa(SESSIONS)["metrics"]} == {
        "rope_busy_ratio",
        "rope_kv_ratio",
        "rope_memory_ratio",
        "rope_queue_ratio",
    }


def test_a_target_of_zero_leaves_a_measure_out():
    values = {"autoscaling": {"targets": {"busy": 0, "queue": 0.25}}}
    assert triggers(scaled_object(values)).keys() == {"queue", "memory"}
    (queue, memory) = sorted(hpa(values)["metrics"], key=str, reverse=True)
    assert queue["pods"]["target"] == {"type": "AverageValue", "averageValue": "250m"}
    assert memory["pods"]["metric"]["name"] == "rope_memory_ratio"


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 300),
        (SESSIONS, 3600),
        (merge(SESSIONS, {"settings": {"ROPE_SESSION_TTL_S": 120.5}}), 121),
        (merge(SESSIONS, {"settings": {"ROPE_SESSION_TTL_S": 1e6}}), 3600),
        ({"autoscaling": {"scaleDown": {"stabilizationSeconds": 0}}}, 0),
        (merge(SESSIONS, {"autoscaling": {"scaleDown": {"stabilizationSeconds": 60}}}), 60),
    ],
)
def test_pods_are_removed_late(values, seconds):
    for found in (behavior(scaled_object(values)), hpa(values)["behavior"]):
        assert found["scaleDown"]["stabilizationWindowSeconds"] == seconds
        assert found["scaleUp"]["stabilizationWindowSeconds"] == 0


def test_pods_with_sessions_are_removed_only_if_the_values_say_so():
    """KEDA knows which pods have sessions; a HorizontalPodAutoscaler cannot."""
    assert behavior(scaled_object(SESSIONS))["scaleDown"]["selectPolicy"] == "Max"
    assert hpa(SESSIONS)["behavior"]["scaleDown"]["selectPolicy"] == "Disabled"
    ends = merge(SESSIONS, {"autoscaling": {"scaleDown": {"endSessions": True}}})
    assert "occupied" not in triggers(scaled_object(ends))
    assert hpa(ends)["behavior"]["scaleDown"]["selectPolicy"] == "Max"
    assert hpa()["behavior"]["scaleDown"]["policies"] == [
        {"type": "Pods", "value": 1, "periodSeconds": 60}
    ]


def test_credentials_and_more_triggers():
    keda = {
        "authenticationRef": {"name": "prometheus", "kind": "TriggerAuthentication"},
        "triggerMetadata": {"authModes": "bearer"},
        "extraTriggers": [{"type": "cron", "metadata": {"timezone": "UTC"}}],
    }
    found = scaled_object(SESSIONS, {"autoscaling": {"keda": keda}})["triggers"]
    assert found[-1] == keda["extraTriggers"][0]
    for each in found[:-1]:
        assert each["metadata"]["authModes"] == "bearer"
        assert each["authenticationRef"] == keda["authenticationRef"]


def test_the_adapter_has_each_metric_of_the_autoscaler_by_the_query_of_keda():
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    queries = {
        each["name"]["as"]: each["metricsQuery"]
        .replace("<<.LabelMatchers>>", "S")
        .replace("<<.GroupBy>>", "pod")
        for each in rules
    }
    assert queries.keys() == {each["pods"]["metric"]["name"] for each in hpa(SESSIONS)["metrics"]}
    spec = scaled_object(SESSIONS, {"autoscaling": {"keda": {"selector": "S"}}})
    for name, trigger in triggers(spec).items():
        if name != "occupied":
            assert trigger["query"] == f"sum({queries[f'rope_{name}_ratio']})"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (merge(HPA, NO_TARGET), "autoscaling has no metric"),
        (merge(KEDA, NO_TARGET), "autoscaling has no metric"),
        (merge(HPA, KEDA), "two autoscalers would change the same pods"),
        ({"autoscaling": {"keda": {"enabled": True}}}, "keda.serverAddress is missing"),
        (merge(HPA, {"autoscaling": {"minReplicas": 9}}), "minReplicas (9) is above"),
        ({"autoscaling": {"minReplicas": 0}}, "'/autoscaling/minReplicas'"),
        ({"autoscaling": {"targets": {"cpu": 0.8}}}, "'cpu'"),
        ({"autoscaling": {"targets": {"busy": 70}}}, "'/autoscaling/targets/busy'"),
        ({"autoscaling": {"scaleDown": {"stabilizationSeconds": 7200}}}, "stabilizationSeconds"),
        ({"autoscaling": {"keda": {"metricName": "x"}}}, "'metricName'"),
        ({"autoscaling": {"keda": {"serverAddress": "prometheus:9090"}}}, "serverAddress"),
    ],
)
def test_what_cannot_work_is_refused(values, sentence):
    assert sentence in refusal(values)


@pytest.mark.parametrize(
    "values",
    [
        merge(HPA, NO_TARGET, {"autoscaling": {"hpa": {"extraMetrics": [{"type": "External"}]}}}),
        merge(KEDA, NO_TARGET, SESSIONS),  # the reserved memory of sessions is left
        {"autoscaling": {"minReplicas": 9}},  # no autoscaler reads it
    ],
)
def test_values_near_a_refused_set_are_accepted(values):
    assert refusal(values) == ""
