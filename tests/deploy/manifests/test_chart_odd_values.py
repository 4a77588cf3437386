"""Unusual values: null, names that YAML reads as another type, labels that are set twice."""

import helm_python
import pytest
import yaml

from tests.deploy.manifests.references import dangling, matches
from tests.deploy.manifests.render import (
    CHART,
    Object,
    Values,
    merge,
    of_kind,
    profile,
    refusal,
    render,
)
from tests.deploy.manifests.schemas import schema_errors

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())

EVERYTHING: Values = merge(
    profile("sessions"),
    {
        "tls": {"enabled": True, "existingSecret": "tls"},
        "shm": {"enabled": True},
        "ingress": {"enabled": True, "hosts": ["rope.example.com"]},
        "autoscaling": {"keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}},
        "metrics": {
            "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics"}},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
)
"""Values that turn most templates on."""

OUTSIDE = ("tls", "metrics", "rope-keys", "rope-session-key")


def valid(values: Values, name: str = "rope", namespace: str = "rope") -> list[Object]:
    """Return the objects of the chart; fail if one is not valid."""
    objects = render(values, name, namespace)
    assert [error for each in objects for error in schema_errors(each, "1.34")] == []
    return objects


def at(path: str, value: object) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[return-value]


EMPTY = [key for key, value in DEFAULTS.items() if value in ({}, [], "") and key != "settings"]

MAPS = [
    key
    for key, value in DEFAULTS.items()
    if isinstance(value, dict) and value and not key.lower().endswith("securitycontext")
]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_value_that_is_empty_may_be_null(device):
    # "tolerations:" with nothing below it is null
    values = dict.fromkeys(EMPTY) | {"device": device, "podSecurityContext": None}
    assert len(EMPTY) > 20
    assert valid(merge(EVERYTHING, values))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        *((key, "''") for key in MAPS),
        ("settings", "''"),
        ("device", "''"),
        ("replicaCount", "''"),
        ("probes.liveness", "'/probes'"),
        ("probes.startup.periodSeconds", "'/probes/startup'"),
        ("service.httpPort", "'/service'"),
        ("image.repository", "'/image'"),
        ("sessions.router.image", "'/sessions/router'"),
        ("metrics.serviceMonitor.keySecret.key", "'/metrics/serviceMonitor/keySecret'"),
        ("autoscaling.hpa.enabled", "'/autoscaling/hpa'"),
    ],
)
def test_null_in_place_of_a_value_that_is_needed_is_refused_with_its_name(path, place):
    sentence = refusal(merge(EVERYTHING, at(path, None)))
    assert f"at {place}: missing property '{path.rpartition('.')[2]}'" in sentence


@pytest.mark.parametrize("name", ["on", "null", "no"])
def test_names_that_yaml_would_read_as_something_else(name):
    values = merge(
        EVERYTHING,
        {
            "fullnameOverride": name,
            "nameOverride": name,
            "runtimeClassName": name,
            "priorityClassName": "123",
            "schedulerName": "1e3",
            "serviceAccount": {"name": name},
            "keys": {"existingSecret": "123", "secretKey": "456"},
            "tls": {"existingSecret": "0x1f"},
            "sessions": {"signingKey": {"existingSecret": "1e3", "secretKey": "true"}},
            "ingress": {"className": "123"},
            "service": {"httpAppProtocol": "1", "trafficDistribution": "2"},
            "metrics": {"serviceMonitor": {"keySecret": {"name": "123", "key": "true"}}},
        },
    )
    objects = valid(values, name="true", namespace="123")
    assert dangling(objects, ("123", "0x1f", "1e3")) == []


@pytest.mark.parametrize("text", ["it's", "{{ .Release.Name }}", 'a"b', "a: b #c", "- a", "*x"])
def test_texts_stay_what_they_are(text):
    values = merge(
        EVERYTHING,
        {
            "runtimeClassName": text,
            "podAnnotations": {"note": text},
            "settings": {"ROPE_WARM_UP_SHAPES": text},
            "env": [{"name": "NOTE", "value": text}],
            "autoscaling": {"keda": {"selector": f'note="{text}"'}},
        },
    )
    objects = valid(values)
    pod = of_kind(objects, "StatefulSet")[0]["spec"]["template"]
    assert pod["spec"]["runtimeClassName"] == text
    assert pod["metadata"]["annotations"]["note"] == text
    variables = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert variables["ROPE_WARM_UP_SHAPES"] == variables["NOTE"] == text
    query = of_kind(objects, "ScaledObject")[0]["spec"]["triggers"][0]["metadata"]["query"]
    assert f'note="{text}"' in query


@pytest.mark.parametrize("name", ["123", "1rope", "rope.v2", "a" * 50 + "--b"])
def test_a_release_whose_services_kubernetes_would_refuse(name):
    with pytest.raises(helm_python.HelmError, match="set fullnameOverride"):
        render({}, name=name)
    assert valid({"fullnameOverride": "rope"}, name=name)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels has app.kubernetes.io"),
        ({"podLabels": {"app.kubernetes.io/instance": "x"}}, "podLabels has app.kubernetes.io"),
        ({"service": {"labels": {"rope-service/metrics": "x"}}}, "service.labels has rope-service"),
        (
            {"metrics": {"dashboard": {"labels": {"helm.sh/chart": "x"}}}},
            "metrics.dashboard.labels has helm.sh/chart",
        ),
        (
            {"podLabels": {"team": "a"}, "commonLabels": {"team": "b"}},
            "podLabels and commonLabels both have team",
        ),
    ],
)
def test_a_label_that_would_stand_twice_is_refused(values, sentence):
    assert sentence in refusal(values)


@pytest.mark.parametrize("profile_name", ["secure", "sessions"])
def test_the_network_policy_lets_helm_test_in(profile_name):
    values = {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"a": "b"}}}]}}
    objects = render(merge(profile(profile_name), values))
    (test,) = of_kind(objects, "Pod")
    host = test["spec"]["containers"][0]["args"][1]
    (service,) = [each for each in of_kind(objects, "Service") if each["metadata"]["name"] == host]
    (policy,) = [
        each
        for each in of_kind(objects, "NetworkPolicy")
        if each["spec"]["podSelector"]["matchLabels"] == service["spec"]["selector"]
    ]
    assert any(
        matches(test["metadata"]["labels"], peer["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if "podSelector" in peer and {"port": "http", "protocol": "TCP"} in rule["ports"]
    )
