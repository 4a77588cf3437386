"""Services, network policies and routes of the chart."""

import pytest

from tests.deploy.manifests.pods import container, workload
from tests.deploy.manifests.render import of_kind, render

SESSIONS = {"enabled": True, "open": True, "signingKey": {"existingSecret": "key"}}
ROUTED = {"sessions": SESSIONS | {"router": {"enabled": True}}}
POLICY = {"networkPolicy": {"enabled": True}}


def _named(values, kind):
    return {each["metadata"]["name"]: each for each in of_kind(render(values), kind)}


def _ports(service):
    return {each["name"]: each for each in service["spec"]["ports"]}


def test_the_service_leads_to_ports_of_the_pod():
    [service] = _named({}, "Service").values()
    ports = _ports(service)
    assert {name: each["port"] for name, each in ports.items()} == {
        "http": 8000,
        "grpc": 8001,
        "status": 8002,
    }
    names = {each["name"] for each in container()["ports"]}
    assert {each["targetPort"] for each in ports.values()} == names
    assert service["spec"]["selector"] == workload()["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("values", "http", "grpc"),
    [
        ({}, "http", "kubernetes.io/h2c"),
        ({"tls": {"enabled": True, "existingSecret": "a"}}, "https", "https"),
        ({"service": {"grpcAppProtocol": "grpc"}}, "http", "grpc"),
    ],
)
def test_protocols_of_the_ports(values, http, grpc):
    [service] = _named(values, "Service").values()
    ports = _ports(service)
    assert (ports["http"]["appProtocol"], ports["grpc"]["appProtocol"]) == (http, grpc)
    assert ports["status"]["appProtocol"] == "http"


def test_a_load_balancer_does_not_show_metrics():
    values = {"service": {"type": "LoadBalancer", "httpNodePort": 30080, "grpcPort": 443}}
    services = _named(values, "Service")
    ports = _ports(services["rope-rope-service"])
    assert set(ports) == {"http", "grpc"}
    assert ports["http"]["nodePort"] == 30080
    assert ports["grpc"]["port"] == 443
    assert "status" in _ports(services["rope-rope-service-headless"])


@pytest.mark.parametrize(
    "values",
    [{}, ROUTED, {"headlessService": {"enabled": True}}, {"service": {"type": "NodePort"}}],
)
def test_prometheus_finds_each_pod_once(values):
    services = _named(values, "Service").values()
    [found] = [each for each in services if "rope-service/metrics" in each["metadata"]["labels"]]
    assert "status" in _ports(found)


def test_pods_that_drain_stay_in_the_names_of_sessions():
    headless = _named({"sessions": SESSIONS}, "Service")["rope-rope-service-headless"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    balanced = _named({"headlessService": {"enabled": True}}, "Service")
    assert "publishNotReadyAddresses" not in balanced["rope-rope-service-headless"]["spec"]


def _allowed(policy, direction):
    """Return the ports of each rule."""
    return [[each["port"] for each in rule["ports"]] for rule in policy["spec"][direction]]


def test_the_policy_lets_nothing_out():
    [policy] = _named(POLICY, "NetworkPolicy").values()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == []
    assert _allowed(policy, "ingress") == [["http", "grpc"], ["status"]]
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {}}]
    assert policy["spec"]["podSelector"] == workload()["spec"]["selector"]


def test_the_policy_names_clients_and_prometheus():
    clients = [{"podSelector": {"matchLabels": {"a": "b"}}}]
    prometheus = [{"namespaceSelector": {"matchLabels": {"c": "d"}}}]
    values = {"networkPolicy": {"enabled": True, "clients": clients, "prometheus": prometheus}}
    [policy] = _named(values, "NetworkPolicy").values()
    assert [rule["from"] for rule in policy["spec"]["ingress"][:2]] == [clients, prometheus]


def test_the_router_may_use_dns_and_call_pods():
    policies = _named(ROUTED | POLICY, "NetworkPolicy")
    router = policies["rope-rope-service-router"]
    assert _allowed(router, "egress") == [["http", "status"], [53, 53]]
    assert _allowed(router, "ingress") == [["http"], ["status"]]
    labels = router["spec"]["podSelector"]["matchLabels"]
    service = policies["rope-rope-service"]["spec"]
    assert {"podSelector": {"matchLabels": labels}} in service["ingress"][2]["from"]
    assert service["podSelector"] == router["spec"]["egress"][0]["to"][0]["podSelector"]


def test_more_rules_are_added():
    ingress = {"from": [{"podSelector": {}}], "ports": [{"port": 9000}]}
    egress = {"to": [{"podSelector": {}}], "ports": [{"port": 9001}]}
    rules = {"extraIngress": [ingress], "extraEgress": [egress]}
    [policy] = _named({"networkPolicy": {"enabled": True, **rules}}, "NetworkPolicy").values()
    assert policy["spec"]["ingress"][-1] == ingress
    assert policy["spec"]["egress"] == [egress]


@pytest.mark.parametrize(("values", "name"), [({}, ""), (ROUTED, "-router")])
def test_ingress_and_routes_lead_to_the_entry(values, name):
    refs = [{"name": "edge", "namespace": "infra"}]
    outside = {
        "ingress": {"enabled": True, "className": "nginx", "hosts": ["rope.example.com"]},
        "gateway": {
            "http": {"enabled": True, "parentRefs": refs, "hostnames": ["rope.example.com"]},
            "grpc": {"enabled": True, "parentRefs": refs},
        },
    }
    [ingress] = _named(values | outside, "Ingress").values()
    [rule] = ingress["spec"]["rules"]
    assert [each["path"] for each in rule["http"]["paths"]] == ["/v1", "/v2"]
    backends = [each["backend"]["service"] for each in rule["http"]["paths"]]
    entry = "rope-rope-service" + name
    assert backends == [{"name": entry, "port": {"name": "http"}}] * 2
    assert ingress["spec"]["ingressClassName"] == "nginx"
    [http] = _named(values | outside, "HTTPRoute").values()
    assert http["spec"] == {
        "parentRefs": refs,
        "hostnames": ["rope.example.com"],
        "rules": [
            {
                "matches": [
                    {"path": {"type": "PathPrefix", "value": "/v1"}},
                    {"path": {"type": "PathPrefix", "value": "/v2"}},
                ],
                "backendRefs": [{"name": entry, "port": 8000}],
            }
        ],
    }
    [grpc] = _named(values | outside, "GRPCRoute").values()
    assert grpc["spec"]["rules"] == [{"backendRefs": [{"name": "rope-rope-service", "port": 8001}]}]


def test_more_objects_are_templates():
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-a'}"
    object_ = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}
    assert list(_named({"extraObjects": [text, object_]}, "ConfigMap")) == ["rope-a", "b"]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [({}, {"maxUnavailable": 1}), ({"minAvailable": "50%"}, {"minAvailable": "50%"})],
)
def test_the_disruption_budget(budget, expected):
    [found] = _named({"podDisruptionBudget": budget}, "PodDisruptionBudget").values()
    assert expected.items() <= found["spec"].items()
    assert len(found["spec"]) == 3
    assert _named({"podDisruptionBudget": {"enabled": False}}, "PodDisruptionBudget") == {}


def test_annotations_and_labels_of_all_objects():
    values = ROUTED | POLICY | {"commonLabels": {"team": "x"}, "commonAnnotations": {"a": "1"}}
    for each in render(values):
        assert each["metadata"]["labels"]["team"] == "x", each["kind"]
        annotations = each["metadata"].get("annotations", {})
        if "helm.sh/hook" not in annotations:
            assert annotations["a"] == "1", each["kind"]
