"""Render the chart and make a pod of it that Podman runs beside other processes of this machine."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.traffic import get

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "deploy" / "helm" / "rope-service" / "profiles"
WORKLOADS = ("Deployment", "StatefulSet")


@dataclass(frozen=True)
class Probe:
    """A probe of a container, as the kubelet performs it."""

    path: str
    port: int
    period_s: float
    timeout_s: float
    failures: int

    def succeeds(self) -> bool:
        """Send one probe."""
        status = get(self.port, self.path, self.timeout_s)
        return status is not None and 200 <= status < 400


def render(python: str, profile: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the workload, Secrets and ConfigMaps that the chart makes of a profile."""
    command = [python, "-m", "tests.deploy.manifests.render", str(PROFILES / f"{profile}.yaml")]
    command += ["--set", ",".join(f"{name}={value}" for name, value in values.items())]
    for kind in (*WORKLOADS, "Secret", "ConfigMap"):
        command += ["--kind", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [*yaml.safe_load_all(done.stdout)]


def workload(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only Deployment or StatefulSet of the service."""
    (found,) = [
        each
        for each in objects
        if each["kind"] in WORKLOADS and _container(each["spec"]["template"]["spec"])
    ]
    return found


def probes(pod: Mapping[str, Any]) -> dict[str, Probe]:
    """Return the startup, readiness and liveness probe of the service's container."""
    container = _container(pod)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    found = {}
    for name in ("startup", "readiness", "liveness"):
        probe = container[f"{name}Probe"]
        http = probe["httpGet"]
        port = ports.get(http["port"], http["port"])
        numbers = (probe[key] for key in ("periodSeconds", "timeoutSeconds", "failureThreshold"))
        found[name] = Probe(http["path"], port, *numbers)
    return found


def runnable(owner: dict[str, Any], tmp: Path) -> dict[str, Any]:
    """Return a Pod for `podman kube play`, with as few changes as it needs.

    - The pod uses the network of the machine, since a network of its own needs more than a kernel
      in a container may have. Podman refuses published ports beside it.
    - Podman 4 runs `curl` in the container for probes: the test performs them.
    - Podman 4 makes a folder on the disk of an emptyDir of medium Memory: `tmp` is a tmpfs of its
      size.
    """
    template = owner["spec"]["template"]
    pod = {**template["spec"], "hostNetwork": True, "volumes": []}
    pod["containers"] = [
        {key: value for key, value in container.items() if key != "ports" and "Probe" not in key}
        for container in pod["containers"]
    ]
    for volume in template["spec"].get("volumes", ()):
        if volume["name"] == "tmp":
            volume = {"name": "tmp", "hostPath": {"path": str(tmp), "type": "Directory"}}
        pod["volumes"].append(volume)
    metadata = {"name": f"{owner['metadata']['name']}-0", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}


def tmp_bytes(pod: Mapping[str, Any]) -> str:
    """Return the size of the volume at /tmp, as `mount` reads it."""
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert volume["emptyDir"]["medium"] == "Memory"
    return volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()


def _container(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((c for c in pod["containers"] if c["name"] == "rope-service"), None)
