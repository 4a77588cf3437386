"""The pod that `make pod-test` runs, made of a workload of the chart."""

import copy
import sys
from pathlib import Path

import pytest

from tests.deploy import pod, pod_manifest

WORKLOAD = {
    "kind": "StatefulSet",
    "metadata": {"name": "rope"},
    "spec": {
        "template": {
            "metadata": {"labels": {"app": "rope"}},
            "spec": {
                "enableServiceLinks": False,
                "containers": [
                    {
                        "name": "rope-service",
                        "image": "rope-service:dev",
                        "ports": [{"name": "status", "containerPort": 8002}],
                        "startupProbe": {
                            "httpGet": {"path": "/readyz", "port": "status"},
                            "periodSeconds": 2,
                            "timeoutSeconds": 3,
                            "failureThreshold": 60,
                        },
                        "securityContext": {"readOnlyRootFilesystem": True},
                        "env": [
                            {"name": "A", "value": "1"},
                            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                    {"name": "keys", "secret": {"secretName": "keys"}},
                ],
            },
        }
    },
}
for _name in ("readiness", "liveness"):
    _container = WORKLOAD["spec"]["template"]["spec"]["containers"][0]
    _container[f"{_name}Probe"] = _container["startupProbe"] | {"timeoutSeconds": 5}


def test_the_pod_differs_only_where_podman_needs_it():
    before = copy.deepcopy(WORKLOAD)
    made = pod_manifest.runnable(WORKLOAD, Path("/mnt"), {"b": "2"}, Path("/keys"))
    assert before == WORKLOAD
    assert made["kind"] == "Pod"
    assert made["metadata"] == {"name": "rope-0", "labels": {"app": "rope"}}
    spec = WORKLOAD["spec"]["template"]["spec"]
    assert {k: v for k, v in made["spec"].items() if k not in ("containers", "volumes")} == {
        "enableServiceLinks": False,
        "hostNetwork": True,
    }
    (container,) = made["spec"]["containers"]
    same = {k: spec["containers"][0][k] for k in ("name", "image", "securityContext")}
    assert container == same | {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    assert made["spec"]["volumes"] == [
        {"name": "tmp", "hostPath": {"path": "/mnt", "type": "Directory"}},
        {"name": "keys", "hostPath": {"path": "/keys", "type": "Directory"}},
    ]
    assert pod_manifest.tmp_bytes(spec) == "64m"


def test_probes_are_those_of_the_manifest():
    probes = pod_manifest.probes(WORKLOAD["spec"]["template"]["spec"])
    assert probes["startup"] == pod_manifest.Probe("/readyz", 8002, 2, 3, 60)
    assert probes["liveness"].timeout_s == 5


def test_the_workload_of_the_service_is_found():
    router = {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "x"}]}}}}
    assert pod_manifest.workload([router, WORKLOAD]) is WORKLOAD


@pytest.mark.parametrize(
    ("name", "value"), [("PYTHON", "no-such-python"), ("DOCKER", "no-such-docker")]
)
def test_pod_test_is_skipped_without_its_tools(name, value, monkeypatch, capsys):
    monkeypatch.setattr(pod, "PYTHON", sys.executable)
    monkeypatch.setattr(pod, name, value)
    pod.main()
    assert "SKIPPED" in capsys.readouterr().out
