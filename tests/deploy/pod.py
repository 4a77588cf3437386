"""Run the pod that the chart renders, probe it, and stop it during a request: `make pod-test`.

Needs root, Podman with runc, the image rope-service:dev in a Docker engine (`make image-test`), and
the environment .venv-deploy with Helm's engine; without one of them, it prints SKIPPED. Arguments
are names of the chart's profiles. `POD_STORAGE` names a folder that keeps the image for later runs.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

from tests.deploy import pod_manifest
from tests.deploy.pod_manifest import Probe
from tests.deploy.pod_secrets import PodSecrets
from tests.deploy.podman import Podman, tmpfs
from tests.deploy.report import check, print_line
from tests.deploy.traffic import attend, check_rotate, metric, post, tokens_for, wait
from tests.free_ports import free_ports
from tests.waiting import wait_until

DOCKER = os.environ.get("DOCKER", "docker")
PYTHON = os.environ.get("DEPLOY_PYTHON", ".venv-deploy/bin/python")
IMAGE = "rope-service:dev"
PROFILES = ("minimal", "cpu", "sessions")
SLOW_REQUEST_S = 14.0
"""Time of the request in flight at the stop: longer than the delay of the drain."""


@dataclass(frozen=True)
class PodClient:
    """How a client reaches the pod, and its session."""

    port: int
    headers: dict[str, str]
    session: str | None


def main() -> None:
    """Run the pod of each profile."""
    reason = skip_reason()
    if reason:
        print_line(f"pod test SKIPPED: {reason}")
        return
    kept = os.environ.get("POD_STORAGE")
    podman = Podman(Path(kept or tempfile.mkdtemp(prefix="rope-pod-")).resolve())
    try:
        start = time.monotonic()
        podman.load(DOCKER, IMAGE)
        print_line(f"the image is in Podman's storage after {time.monotonic() - start:.0f} s")
        for profile in sys.argv[1:] or PROFILES:
            _test(podman, profile)
    finally:
        if not kept:
            podman.remove()
    print_line("pod test passed")


def skip_reason() -> str | None:
    """Return the tool that is missing; None if the test can run."""
    commands = {
        "Podman": ["podman", "--version"],
        "runc": ["runc", "--version"],
        f"the image {IMAGE}": [DOCKER, "image", "inspect", IMAGE],
        "Helm's engine (make test-deploy installs it)": [PYTHON, "-c", "import helm_python"],
    }
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            return f"there is no {command[0]} for {name}"
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return f"{name} is missing"
    return None if os.geteuid() == 0 else "it mounts a tmpfs, which only root may"


def _test(podman: Podman, profile: str) -> None:
    uid = secrets.choice(range(1_000_000_000, 1_001_000_000))  # as OpenShift does
    http, grpc, status = free_ports(3)
    values = {
        "image.repository": f"localhost/{IMAGE.partition(':')[0]}",
        "image.tag": IMAGE.partition(":")[2],
        "podSecurityContext.runAsUser": uid,
        "podSecurityContext.runAsGroup": 0,
        "ports.http": http,
        "ports.grpc": grpc,
        "ports.status": status,
        "settings.ROPE_MAX_CALL_S": 60,
    }
    if profile == "sessions":
        values["sessions.kvBytes"] = "256Mi"
    objects = pod_manifest.render(PYTHON, profile, values)
    owner = pod_manifest.workload(objects)
    spec = owner["spec"]["template"]["spec"]
    with tmpfs(podman.folder / "tmp", pod_manifest.tmp_bytes(spec)) as tmp:
        own = PodSecrets()
        folder = own.write(podman.folder / "secrets")
        pod = pod_manifest.runnable(owner, tmp, own.data, folder)
        manifest = podman.folder / f"{profile}.yaml"
        manifest.write_text(yaml.safe_dump(pod))
        with podman.playing(manifest, pod["metadata"]["name"]) as container:
            print_line(f"profile {profile}: {owner['kind']} {owner['metadata']['name']}")
            try:
                _check(podman, container, spec, uid, http, own.headers if _has_keys(spec) else {})
            except BaseException:
                print_line(podman.run("logs", container))
                raise


def _check(
    podman: Podman,
    container: str,
    spec: dict[str, Any],
    uid: int,
    port: int,
    headers: dict[str, str],
) -> None:
    probes = pod_manifest.probes(spec)
    _check_start(probes["startup"])
    check(probes["readiness"].succeeds(), "the pod is ready after its startup probe")
    check(probes["liveness"].succeeds(), "the pod is alive")
    _check_restrictions(podman, container, spec, uid)
    if headers:
        check(_rotates_without_key(port) == 401, "a request without a key is refused")
    check_rotate(port, headers)
    has_sessions = _variables(spec).get("ROPE_SESSIONS") == "on"
    session = _create_session(port, headers, container) if has_sessions else None
    _check_stop(podman, container, spec, probes, PodClient(port, headers, session))


def _variables(spec: dict[str, Any]) -> dict[str, str | None]:
    return {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}


def _has_keys(spec: dict[str, Any]) -> bool:
    return "ROPE_KEYS_FILE" in _variables(spec)


def _rotates_without_key(port: int) -> int:
    body = b'{"q": [[[[1, 2]]]], "positions": [7], "rope": {"theta": 10000}}'
    return post(port, "/v1/rotate", "application/json", body)[0]


def _create_session(port: int, headers: dict[str, str], container: str) -> str:
    """Create a session; its id has the name of the pod, by which routers find it."""
    facts = {"layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "max_tokens": 16}
    body = json.dumps({**facts, "rope": {"theta": 10_000}}).encode()
    status, response = post(port, "/v1/sessions", "application/json", body, headers)
    check(status == 201, f"a session is created: {status} {response[:500]!r}")
    session = json.loads(response)["id"]
    owner = session.split(".")[1]
    check(owner == container.removesuffix("-rope-service"), f"the pod owns the session: {owner}")
    print_line(f"session of the owner {owner}")
    return session


def _check_start(probe: Probe) -> None:
    start = time.monotonic()
    try:
        wait_until(probe.succeeds, probe.period_s * probe.failures, probe.period_s)
    except TimeoutError:
        check(False, "the startup probe succeeds before the pod would be restarted")
    print_line(f"startup probe succeeds after {time.monotonic() - start:.0f} s")


def _check_restrictions(podman: Podman, container: str, spec: dict[str, Any], uid: int) -> None:
    state = podman.state(container)
    status = Path(f"/proc/{state['State']['Pid']}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    shown = {key: facts[key] for key in ("Uid", "Gid", "CapEff", "NoNewPrivs", "Seccomp")}
    check(facts["Uid"].split() == [str(uid)] * 4, f"the process has the given uid: {shown}")
    check(int(facts["CapEff"], 16) == 0, f"the process has no capabilities: {shown}")
    check(facts["NoNewPrivs"] == "1", f"the process cannot gain privileges: {shown}")
    check(facts["Seccomp"] == "2", f"system calls are filtered: {shown}")
    check(state["HostConfig"]["ReadonlyRootfs"], "the root file system is read-only")
    (limit,) = [c["resources"]["limits"]["memory"] for c in spec["containers"]]
    limit_bytes = state["HostConfig"]["Memory"]
    check(limit_bytes == int(limit.removesuffix("Gi")) << 30, f"memory: {limit_bytes}, {limit}")
    # the root, and a file in /tmp that is too large for it
    script = (
        "import os, shutil\n"
        "for path in ('/opt/rope/x', '/etc/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(error.errno, end=' ')\n"
        "print(shutil.disk_usage('/tmp').total)\n"
    )
    *errors, total = podman.run("exec", container, "python", "-c", script).split()
    check(errors == ["30", "30"], f"files cannot be written (EROFS is 30): {errors}")
    check(int(total) == 64 << 20, f"/tmp has 64 MiB: {total}")
    print_line(f"restrictions: {shown}, root read-only, memory {limit}, /tmp {total} bytes")


def _may_export(client: PodClient) -> bool:
    connection = HTTPConnection("127.0.0.1", client.port, timeout=30)
    connection.request("GET", f"/v1/sessions/{client.session}", headers=client.headers)
    return connection.getresponse().headers["X-Session-Export"] == "possible"


def _check_stop(
    podman: Podman,
    container: str,
    spec: dict[str, Any],
    probes: dict[str, Probe],
    client: PodClient,
) -> None:
    """Stop the pod as a kubelet does, while a request is computed."""
    grace_s = spec["terminationGracePeriodSeconds"]
    port, headers = client.port, client.headers
    num_tokens = tokens_for(port, SLOW_REQUEST_S, headers)
    pod = container.removesuffix("-rope-service")
    with ThreadPoolExecutor(2) as threads:
        request_start = time.monotonic()
        slow = threads.submit(attend, port, num_tokens, headers)
        status_port = probes["readiness"].port
        admitted = "rope_admitted_bytes"
        wait("a request is admitted", lambda: metric(status_port, admitted, headers) > 0)
        stop_start = time.monotonic()
        stop = threads.submit(podman.run, "pod", "stop", "--time", str(grace_s), pod)
        wait("the readiness probe fails", lambda: not probes["readiness"].succeeds())
        unready_s = time.monotonic() - stop_start
        check(probes["liveness"].succeeds(), "a draining pod is alive")
        if client.session:
            check(_may_export(client), "a draining pod says that sessions can be exported")
        response_s = request_start + slow.result() - stop_start
        stop.result()
    stopped_s = time.monotonic() - stop_start
    state = podman.state(container)["State"]
    delay_s = float(_variables(spec)["ROPE_DRAIN_DELAY_S"] or 0)
    check(response_s > delay_s, f"the response comes after the delay: {response_s:.1f} s")
    check(state["ExitCode"] == 0, f"exit code 0, all accepted requests were answered: {state}")
    check(not state["OOMKilled"], "the memory of the pod suffices")
    print_line(
        f"stop with attention over {num_tokens} tokens in flight: not ready after "
        f"{unready_s:.1f} s, correct response after {response_s:.1f} s, "
        f"exit after {stopped_s:.1f} s of {grace_s} s, exit code {state['ExitCode']}"
    )


if __name__ == "__main__":
    main()
