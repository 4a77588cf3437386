"""The chart with sessions: names that stay, a key for all pods, one owner for each request."""

import pytest

from tests.deploy.manifests.pods import container, pod, variables, workload
from tests.deploy.manifests.render import of_kind, profile, render

SESSIONS = {"enabled": True, "open": True, "signingKey": {"existingSecret": "key"}}


def test_without_sessions_they_are_off():
    assert variables()["ROPE_SESSIONS"] == "off"
    assert workload()["kind"] == "Deployment"
    assert "ROPE_SESSION_OWNER" not in variables()


def test_sessions_make_a_stateful_set_with_names():
    values = {"sessions": SESSIONS, "updateStrategy": {"partition": 2}, "replicaCount": 3}
    stateful = workload(values)
    assert stateful["kind"] == "StatefulSet"
    services = [each["metadata"]["name"] for each in of_kind(render(values), "Service")]
    assert stateful["spec"]["serviceName"] in services
    assert stateful["spec"]["podManagementPolicy"] == "Parallel"
    assert stateful["spec"]["updateStrategy"]["rollingUpdate"] == {"partition": 2}
    [spread] = pod(values)["topologySpreadConstraints"]
    assert "matchLabelKeys" not in spread  # pods of a StatefulSet have no such label
    env = variables(values)
    assert env["ROPE_SESSIONS"] == "open"
    assert env["ROPE_SESSION_OWNER"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["ROPE_SESSION_KEY"] == {"secretKeyRef": {"name": "key", "key": "session-key"}}


def test_with_keys_sessions_are_on_and_not_open():
    values = {
        "sessions": SESSIONS | {"open": False},
        "keys": {"enabled": True, "existingSecret": "a"},
    }
    assert variables(values)["ROPE_SESSIONS"] == "on"


def test_a_stateful_set_without_sessions():
    values = {"workload": "StatefulSet"}
    assert workload(values)["kind"] == "StatefulSet"
    assert variables(values)["ROPE_SESSIONS"] == "off"


@pytest.mark.parametrize(
    ("quantity", "written"),
    [
        ("8Gi", "8589934592"),
        ("1.5Gi", "1610612736"),
        ("2G", "2000000000"),
        (60_000_000_000, "60000000000"),
        ("60000000000", "60000000000"),
    ],
)
def test_memory_of_sessions_is_written_in_bytes(quantity, written):
    values = {"sessions": SESSIONS | {"kvBytes": quantity, "kvHostBytes": 1}, "device": "gpu"}
    env = variables(values)
    assert (env["ROPE_KV_BYTES"], env["ROPE_KV_HOST_BYTES"]) == (written, "1")
    assert "ROPE_KV_BYTES" not in variables({"sessions": SESSIONS})


def test_a_key_of_the_values_restarts_pods_when_it_changes():
    def values(key):
        return {"sessions": SESSIONS | {"signingKey": {"value": key}}}

    [secret] = of_kind(render(values("k" * 16)), "Secret")
    assert secret["data"] == {"session-key": "a2tra2tra2tra2tra2traw=="}
    reference = variables(values("k" * 16))["ROPE_SESSION_KEY"]["secretKeyRef"]
    assert reference == {"name": secret["metadata"]["name"], "key": "session-key"}
    annotations = [
        workload(values(key))["spec"]["template"]["metadata"]["annotations"]
        for key in ("k" * 16, "l" * 16)
    ]
    assert annotations[0] != annotations[1]
    assert "k" * 16 not in str(annotations)


def test_the_router_runs_locked_down():
    [router] = of_kind(render(profile("sessions")), "Deployment")
    spec = router["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["terminationGracePeriodSeconds"] == 40
    assert container(profile("sessions"))["name"] == "rope-service"


def test_a_change_of_the_routes_restarts_the_router():
    def annotations(values):
        [router] = of_kind(render(profile("sessions") | values), "Deployment")
        return router["spec"]["template"]["metadata"]["annotations"]

    assert annotations({}) != annotations({"replicaCount": 4})
    assert annotations({}) == annotations({"podAnnotations": {"a": "b"}})
