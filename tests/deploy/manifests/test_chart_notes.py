"""The text that Helm prints after an installation, and the pod of `helm test`."""

import re
import subprocess
import sys

import pytest

from tests.deploy.manifests.pods import StubPod, workload
from tests.deploy.manifests.render import chart, of_kind, profile, profiles, render
from tests.free_ports import free_port

QUIET = {"keys": {"enabled": True, "existingSecret": "a"}}
"""Values without a warning."""


def _notes(values):
    return chart().render(values, name="rope", namespace="rope")["rope-service/templates/NOTES.txt"]


@pytest.mark.parametrize("name", profiles())
def test_the_notes_name_what_exists(name):
    values = profile(name)
    notes = _notes(values)
    services = {
        f"{each['metadata']['name']}.rope.svc:{port['port']}"
        for each in of_kind(render(values), "Service")
        for port in each["spec"]["ports"]
    }
    named = re.findall(r"[a-z-]+\.rope\.svc:\d+", notes)
    assert len(named) >= 2
    assert {each for each in named if "127.0.0.1" not in each} <= services
    rollout = re.search(r"rollout status (\S+)", notes)[1]
    found = workload(values)
    assert rollout == f"{found['kind'].lower()}/{found['metadata']['name']}"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "There are no API keys"),
        ({"tls": {"enabled": True, "existingSecret": "a"}}, "--cacert ca.crt --resolve"),
        ({"device": "gpu"}, "needs a spare GPU"),
        ({"replicaCount": 1, "updateStrategy": {"surge": False}}, "WARNING: the only pod"),
        ({"resources": {"limits": None}}, "WARNING: without resources.limits.memory"),
        ({"networkPolicy": {"enabled": True}}, "pods of this namespace only"),
    ],
)
def test_the_notes_say_what_matters(values, word):
    assert word in _notes(values)
    assert word not in _notes(QUIET)
    assert "Authorization: Bearer" in _notes(QUIET)


def test_helm_test_fails_while_the_service_is_not_ready():
    [test] = of_kind(render(), "Pod")
    [container] = test["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    program, host, port = container["args"]
    [service] = of_kind(render(), "Service")
    assert (host, port) == (service["metadata"]["name"], "8000")
    stub = StubPod(0, free_port())
    try:
        for ready in (True, False):
            stub.ready = ready
            command = [sys.executable, "-c", program, "127.0.0.1", str(stub.server_port)]
            ran = subprocess.run(command, capture_output=True, check=False)
            assert (ran.returncode == 0) is ready
    finally:
        stub.stop()
