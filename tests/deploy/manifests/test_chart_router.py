"""The router of the chart: HAProxy runs its configuration in front of two servers on loopback."""

import json
import re
import shutil
import socket
import subprocess
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tests.deploy.manifests.pods import StubPod
from tests.deploy.manifests.render import ROOT, merge, of_kind, profile, render
from tests.free_ports import free_ports
from tests.waiting import wait_until

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

NAME = "rope-rope-service"
POD = r"rope-rope-service-(\d)\.rope-rope-service-headless\.rope\.svc\.cluster\.local:8000"


def _config(**values):
    [found] = [
        each["data"]["haproxy.cfg"]
        for each in of_kind(render(merge(profile("sessions"), values)), "ConfigMap")
        if each["metadata"]["name"] == f"{NAME}-router"
    ]
    return found


@needs_haproxy
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tls": {"enabled": True, "existingSecret": "rope-tls"}},
        {"ports": {"status": 0}, "probes": {"handler": "http"}},
        {
            "tls": {"enabled": True, "existingSecret": "rope-tls"},
            "ports": {"status": 0},
            "probes": {"handler": "http"},
        },
    ],
)
def test_haproxy_accepts_the_configuration(values, tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", "/CN=a", "-keyout", tmp_path / "tls.pem.key",
         "-out", tmp_path / "tls.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    shutil.copy(tmp_path / "tls.pem", tmp_path / "ca.pem")
    text = _config(**values)
    file = tmp_path / "haproxy.cfg"
    file.write_text(text.replace("/etc/haproxy/tls", str(tmp_path)))
    checked = subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    assert ("ssl verify required" in text) == ("tls" in values)


def test_there_is_a_backend_for_each_pod_that_there_may_be():
    assert len(re.findall(r"^backend ", _config(replicaCount=5), re.M)) == 1 + 5
    scaled = _config(
        autoscaling={"maxReplicas": 7, "keda": {"enabled": True, "serverAddress": "http://p"}}
    )
    assert len(re.findall(r"^backend ", scaled, re.M)) == 1 + 7


def test_the_router_waits_as_long_as_a_request_may_take():
    assert "timeout server 310s" in _config()
    assert "timeout server 70s" in _config(settings={"ROPE_MAX_TIMEOUT_S": 60})


def test_the_router_repeats_the_same_calls_as_the_compose_file():
    """tests/deploy/rolling tests the repeats of deploy/haproxy/haproxy.cfg."""

    def repeated(text):
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line.startswith("acl repeatable ")]

    compose = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
    assert repeated(_config()) == repeated(compose.read_text()) != []


class _Router:
    """HAProxy with the chart's configuration, and two pods."""

    def __init__(self, folder, started):
        self.http, self.status, *ports = free_ports(4)
        self.pods = [StubPod(number, port) for number, port in enumerate(ports)]
        text = _config(replicaCount=2, ports={"status": 0}, probes={"handler": "http"})
        text = re.sub(POD, lambda found: f"127.0.0.1:{ports[int(found[1])]}", text)
        text = text.replace("bind :8000", f"bind 127.0.0.1:{self.http}")
        text = text.replace("bind :8404", f"bind 127.0.0.1:{self.status}")
        text = text.replace("inter 2s fastinter 500ms", "inter 50ms fastinter 50ms")
        text = text.replace("hard-stop-after 30s", "hard-stop-after 1s\n    stats socket "
                            f"{folder}/admin level admin")  # fmt: skip
        (folder / "haproxy.cfg").write_text(text)
        self._socket = f"{folder}/admin"
        self.process = subprocess.Popen(
            [HAPROXY, "-db", "-f", folder / "haproxy.cfg"],
            stdout=started,
            stderr=subprocess.STDOUT,
        )

    def states(self):
        """Return the states of all servers by backend."""
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(self._socket)
            connection.sendall(b"show stat\n")
            with connection.makefile() as answer:
                rows = [line.split(",") for line in answer if line.startswith(("any,", NAME))]
        return {(row[0], row[1]): row[17] for row in rows if row[1] not in ("BACKEND", "FRONTEND")}

    def get(self, path, **headers):
        with closing(HTTPConnection("127.0.0.1", self.http, timeout=10)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        for pod in self.pods:
            pod.stop()


@pytest.fixture
def router(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        router = _Router(tmp_path, log)
        try:
            _wait(router, lambda states: len(states) == 4 and set(states.values()) == {"UP"})
            yield router
        finally:
            router.stop()


def _wait(router, condition):
    """Return when HAProxy's servers are in the wanted states; it checks them every 50 ms."""

    def holds():
        assert router.process.poll() is None, "HAProxy has ended"
        try:
            return condition(router.states())
        except OSError:  # it does not listen yet
            return False

    wait_until(holds, interval_s=0.02)


def _id(owner):
    return f"r1.{NAME}-{owner}.k3.Zy.mac"


@needs_haproxy
def test_requests_reach_the_pod_of_their_session(router, tmp_path):
    for owner in (0, 1) * 3:
        by_path = router.get(f"/v1/sessions/{_id(owner)}/step")
        by_header = router.get("/v1/step", **{"X-Session-Id": _id(owner)})
        assert by_path[:2] == by_header[:2] == (200, str(owner))
    # an unknown owner, and a text that is no id, reach any pod
    for path in ("/v1/sessions/r1.other.k3.a.b", "/v1/sessions/rope", "/v1/rotate"):
        assert router.get(path)[0] == 200
    assert router.get("/metrics")[0] == 404

    # a pod that drains gets no new sessions, and keeps its own
    router.pods[0].ready = False
    _wait(router, lambda states: states[("any", f"{NAME}-0")] == "DOWN")
    assert {router.get("/v1/sessions")[1] for _ in range(4)} == {"1"}
    assert router.get(f"/v1/sessions/{_id(0)}")[:2] == (200, "0")

    # a pod that is gone: no other pod gets its sessions
    router.pods[0].stop()
    _wait(router, lambda states: states[(f"{NAME}-0", f"{NAME}-0")] == "DOWN")
    status, body, headers = router.get(f"/v1/sessions/{_id(0)}")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["code"] == "no_replica"
    assert router.get(f"/v1/sessions/{_id(1)}")[:2] == (200, "1")

    with closing(HTTPConnection("127.0.0.1", router.status, timeout=10)) as connection:
        connection.request("GET", "/metrics")
        assert b"haproxy_server_status" in connection.getresponse().read()
    assert "k3" not in (tmp_path / "log").read_text()  # ids are secrets
