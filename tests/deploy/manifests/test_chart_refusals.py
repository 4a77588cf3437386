"""The chart refuses unknown names, and values that cannot work together."""

import pytest

from tests.deploy.manifests.render import refusal

OPEN = {"enabled": True, "open": True, "signingKey": {"existingSecret": "key"}}
TLS = {"enabled": True, "existingSecret": "rope-tls"}
MADE = {"enabled": True, "certificate": "C", "privateKey": "K"}


@pytest.mark.parametrize(
    ("values", "place", "word"),
    [
        ({"replicas": 3}, "''", "'replicas'"),
        ({"gpu": {"cout": 1}}, "'/gpu'", "'cout'"),
        ({"sessions": {"router": {"on": True}}}, "'/sessions/router'", "'on'"),
        ({"tls": {"clientCa": {"secret": "a"}}}, "'/tls/clientCa'", "'secret'"),
        ({"probes": {"startup": {"period": 1}}}, "'/probes/startup'", "'period'"),
        ({"resources": {"limit": {}}}, "'/resources'", "'limit'"),
        ({"settings": {"ROPE_MAX_QUEU_S": 1}}, "'/settings'", "'ROPE_MAX_QUEU_S'"),
        ({"settings": {"ROPE_MAX_QUEUE_S": "1 s"}}, "'/settings/ROPE_MAX_QUEUE_S'", "number"),
        ({"settings": {"ROPE_THREADS": 0}}, "'/settings/ROPE_THREADS'", "0"),
        ({"settings": {"ROPE_LOG_LEVEL": "loud"}}, "'/settings/ROPE_LOG_LEVEL'", "'debug'"),
        ({"env": [{"name": "ROPE_THREAD", "value": "1"}]}, "'/env/0/name'", "'ROPE_THREADS'"),
        ({"device": "tpu"}, "'/device'", "'gpu'"),
        ({"image": {"digest": "0" * 64}}, "'/image/digest'", "pattern"),
        ({"fullnameOverride": "Rope"}, "'/fullnameOverride'", "pattern"),
        ({"replicaCount": "two"}, "'/replicaCount'", "integer"),
        ({"minReadySeconds": 10**6}, "'/minReadySeconds'", "maximum"),  # would be written 1e+06
        ({"sessions": {"kvBytes": "1.2.3Gi"}}, "'/sessions/kvBytes'", "pattern"),
        ({"tmp": {"sizeLimit": "."}}, "'/tmp/sizeLimit'", "pattern"),
        (
            {"topologySpreadConstraints": [{"topologyKey": "zone"}]},
            "'/topologySpreadConstraints/0'",
            "'whenUnsatisfiable'",
        ),
        ({"podAnnotations": {"a": 1}}, "'/podAnnotations/a'", "string"),
    ],
)
def test_the_schema_names_what_it_does_not_know(values, place, word):
    sentence = refusal(values)
    assert f"at {place}" in sentence
    assert word in sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"device": "gpu", "gpu": {"resource": ""}}, "device is gpu, but no GPU is requested"),
        ({"device": "gpu", "gpu": {"resourceClaimTemplate": "a"}}, "would request two GPUs"),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, "resources has nvidia.com/gpu"),
        ({"sessions": OPEN, "workload": "Deployment"}, "sessions.enabled needs a StatefulSet"),
        ({"sessions": OPEN | {"open": False}}, "sessions.enabled without API keys"),
        ({"sessions": {"enabled": True, "open": True}}, "sessions.signingKey is missing"),
        ({"sessions": OPEN | {"signingKey": {"value": "short"}}}, "signingKey is missing"),
        ({"sessions": OPEN | {"kvBytes": "4Gi"}}, "kvBytes is not less than"),
        ({"sessions": OPEN | {"kvHostBytes": "4Gi"}}, "kvHostBytes is not less than"),
        ({"sessions": {"router": {"enabled": True}}}, "without sessions.enabled"),
        (
            {
                "sessions": OPEN | {"router": {"enabled": True}},
                "tls": TLS | {"clientCa": {"enabled": True}},
            },
            "sessions.router has no certificate",
        ),
        ({"keys": {"enabled": True}}, "keys.enabled without a keys file"),
        ({"keys": {"content": "[a]"}}, "set keys.enabled: true"),
        (
            {"keys": {"enabled": True, "existingSecret": "a", "content": "[a]"}},
            "keys.existingSecret and keys.content exclude each other",
        ),
        ({"tls": {"enabled": True}}, "tls.enabled without a Secret"),
        ({"tls": {"enabled": True, "certificate": "C"}}, "tls.enabled without a Secret"),
        ({"tls": {"existingSecret": "a"}}, "set tls.enabled: true"),
        ({"tls": {"clientCa": {"enabled": True}}}, "tls.clientCa.enabled without TLS"),
        (
            {"tls": MADE | {"clientCa": {"enabled": True}}},
            "without certificates of CAs",
        ),
        ({"ports": {"status": 0}}, "ports.status is 0"),
        ({"ports": {"grpc": 8000}}, "must differ"),
        ({"tls": TLS, "probes": {"handler": "grpc"}}, "probes gRPC without TLS"),
        (
            {"tls": TLS | {"clientCa": {"enabled": True}}, "probes": {"handler": "http"}},
            "probes have no certificate",
        ),
        ({"drain": {"seconds": 40, "gracePeriodSeconds": 45}}, "the grace period of 45 s"),
        ({"drain": {"marginSeconds": 0}}, "the grace period of 25 s"),
        ({"settings": {"ROPE_DRAIN_S": 5}}, "ROPE_DRAIN_S is set by the chart: set drain.seconds"),
        ({"env": [{"name": "ROPE_DEVICE", "value": "cuda"}]}, "set by the chart: set device"),
        (
            {"env": [{"name": "ROPE_PAGE", "value": "0"}], "settings": {"ROPE_PAGE": True}},
            "env and settings both have ROPE_PAGE",
        ),
        ({"settings": {"ROPE_HTTP_HOST": "127.0.0.1"}}, "loopback"),
        ({"podDisruptionBudget": {"minAvailable": 2}}, "no node could be drained"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "lets no pod go"),
        ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "lets no pod go"),
        ({"podDisruptionBudget": {"minAvailable": "100%"}}, "lets no pod go"),
        ({"service": {"grpcPort": 8000}}, "service.grpcPort and ports.status must differ"),
        ({"service": {"httpPort": 8002}}, "service.grpcPort and ports.status must differ"),
        ({"extraPodSpec": {"volumes": []}}, "extraPodSpec.volumes is a field that the chart sets"),
        ({"ingress": {"enabled": True}}, "without ingress.hosts"),
        ({"gateway": {"grpc": {"enabled": True}}}, "gateway.grpc.parentRefs"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_sentence(values, sentence):
    assert sentence in refusal(values)


def test_all_reasons_come_at_once():
    reasons = refusal({"keys": {"enabled": True}, "tls": {"enabled": True}})
    assert "keys.enabled without" in reasons
    assert "tls.enabled without" in reasons


@pytest.mark.parametrize(
    "values",
    [
        {"sessions": OPEN, "fullnameOverride": "a" * 52},
        {"sessions": OPEN | {"kvBytes": "3.5Gi"}},
        {"sessions": OPEN | {"kvBytes": "80Gi"}, "device": "gpu"},
        {"drain": {"seconds": 3600}},
        {"podDisruptionBudget": {"minAvailable": 1}},
        {"podDisruptionBudget": {"minAvailable": "50%"}},
        {"env": [{"name": "ROPE_PAGE", "value": "0"}]},
        {"global": {"anything": 1}},
    ],
)
def test_values_that_work_are_accepted(values):
    assert refusal(values) == ""
