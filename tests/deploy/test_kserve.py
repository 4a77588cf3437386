"""A service started with what deploy/kserve has: variables, ports and probes."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from service.access.new_key import new_key
from service.settings import Settings
from tests.conftest import ROOT
from tests.deploy.manifests import kserve
from tests.free_ports import free_port
from tests.waiting import wait_until

SUITE = Path(__file__).with_name("kserve_suite.py")
RUNTIME = kserve.load("serving-runtime")
POD = "rope-sessions-predictor-7c9d5b6f8d-x2x4v"
X = {"name": "q", "datatype": "FP32", "shape": [1, 2, 1, 4], "data": [0, 1, 2, 3, 4, 5, 6, 7]}


def variables(name, secrets=None):
    """Return the environment of the container, as the kubelet would fill it in."""
    [container] = kserve.pod_spec(RUNTIME, kserve.load(name))["containers"]
    assert container["args"] == ["serve"]
    values = {}
    for each in container["env"]:
        match each.get("valueFrom"):
            case None:
                values[each["name"]] = each["value"]
            case {"fieldRef": {"fieldPath": "metadata.name"}}:
                values[each["name"]] = POD
            case {"secretKeyRef": {"name": secret, "key": key}}:
                values[each["name"]] = secrets[secret][key]
    for mount in container["volumeMounts"]:
        for key, value in values.items():
            if value.startswith(f"{mount['mountPath']}/"):
                values[key] = value.replace(mount["mountPath"], str(secrets["folder"]), 1)
    return values


@contextmanager
def started(serve, name, secrets=None, **changes):
    """Start a service with the variables of an InferenceService, at free ports."""
    values = variables(name, secrets)
    ports = kserve.service_ports(RUNTIME, kserve.load(name))
    assert {port: values.pop(f"ROPE_{port.upper()}_PORT") for port in ports} == {
        port: str(number) for port, (_, number) in ports.items()
    }
    status = free_port()
    with serve(**{**values, **changes, "ROPE_STATUS_PORT": str(status)}) as service:
        service.status_url = f"http://127.0.0.1:{status}"
        yield service


def kserve_suite(**values):
    if find_spec("kserve") is None:
        pytest.skip("kserve is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", SUITE],
        cwd=ROOT,
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def probe(service, name):
    """Return the status that a probe of the runtime gets."""
    get = RUNTIME["spec"]["containers"][0][name]["httpGet"]
    assert get["port"] == "status"
    return httpx.get(f"{service.status_url}{get['path']}").status_code


@pytest.mark.parametrize("name", kserve.services())
def test_each_variable_is_a_setting(name, monkeypatch, tmp_path):
    secrets = {"rope-session-key": {"session-key": "k" * 32}, "folder": tmp_path}
    for key, value in variables(name, secrets).items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert (settings.http_host, settings.http_port, settings.grpc_port) == ("0.0.0.0", 8000, 8001)
    assert settings.status_port == 8002


def test_the_predictor_answers_and_drains(serve):
    with started(serve, "inference-service-cpu") as service:
        assert {probe(service, name) for name in ("startupProbe", "livenessProbe")} == {200}
        assert " passed" in kserve_suite(OIP_HTTP=service.url, OIP_GRPC=service.grpc_target)
        assert probe(service, "readinessProbe") == 200

        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: probe(service, "readinessProbe") == 503)
        assert probe(service, "livenessProbe") == 200, "the pod must not be restarted now"
        url = f"{service.url}/v2/models/rope/infer"
        for _ in range(20):  # the gateway still sends requests for some seconds
            assert httpx.post(url, json={"inputs": [X]}).status_code == 200
        service.process.send_signal(signal.SIGTERM)  # do not wait for the rest of the 15 s
        service.process.wait(timeout=30)


def test_sessions_of_a_pod(serve, tmp_path):
    key, table = new_key("acme", ["infer", "sessions", "metrics"])
    (tmp_path / "keys.toml").write_text(table)
    secrets = {"rope-session-key": {"session-key": "k" * 32}, "folder": tmp_path}
    small = {"ROPE_KV_BYTES": "8388608"}
    values = variables("inference-service-sessions", secrets)
    assert int(values["ROPE_KV_BYTES"]) <= 8 * 2**30 // 2, "half of the memory limit of the pod"
    with started(serve, "inference-service-sessions", secrets, **small) as service:
        suite = kserve_suite(OIP_HTTP=service.url, OIP_GRPC=service.grpc_target, OIP_KEY=key)
        assert "skipped" not in suite
        body = {"heads": 1, "kv_heads": 1, "head_dim": 64, "rope": {"theta": 1e4}, "max_tokens": 8}
        headers = {"authorization": f"Bearer {key}"}
        made = httpx.post(f"{service.url}/v1/sessions", json=body, headers=headers)
        assert made.json()["id"].split(".")[1] == POD
        metrics = httpx.get(f"{service.status_url}/metrics", headers=headers).text
    queries = " ".join(
        trigger["metadata"]["query"]
        for trigger in kserve.scaled_object(kserve.load("inference-service-sessions"))["spec"][
            "triggers"
        ]
    )
    names = {*re.findall(r"\brope_\w+", queries)}
    assert names
    assert names <= {*re.findall(r"^(rope_\w+)", metrics, re.MULTILINE)}
