"""Render the chart, and make a pod of its workload that Podman can run on the host's network."""

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
    """Return the workloads that the chart makes of a profile."""
    command = [python, "-m", "tests.deploy.manifests.render", str(PROFILES / f"{profile}.yaml")]
    command += ["--set", ",".join(f"{name}={value}" for name, value in values.items())]
    for kind in WORKLOADS:
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


def runnable(
    owner: dict[str, Any], tmp: Path, secrets: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """Return a Pod for `podman kube play`, with as few changes as Podman 4 needs.

    - The pod uses the network of the machine, since a network of its own needs more than root in a
      container may do. Podman refuses published ports beside it.
    - Podman runs `curl` in the container for probes: the test performs them.
    - Podman puts an emptyDir of medium Memory on the disk: `tmp` is a tmpfs of its size.
    - Podman cannot use one Secret for variables and volumes: `secrets` has the values of variables,
      and `folder` the same values as files.
    """
    template = owner["spec"]["template"]
    pod = {**template["spec"], "hostNetwork": True}
    pod["containers"] = [_container_for(each, secrets) for each in pod["containers"]]
    pod["volumes"] = [_volume_for(each, tmp, folder) for each in pod.get("volumes", ())]
    metadata = {"name": f"{owner['metadata']['name']}-0", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}


def _container_for(container: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    made = {key: v for key, v in container.items() if key != "ports" and "Probe" not in key}
    made["env"] = [
        {"name": each["name"], "value": secrets[each["valueFrom"]["secretKeyRef"]["key"]]}
        if "secretKeyRef" in each.get("valueFrom", ())
        else each
        for each in container.get("env", ())
    ]
    return made


def _volume_for(volume: dict[str, Any], tmp: Path, folder: Path) -> dict[str, Any]:
    path = tmp if volume["name"] == "tmp" else folder if "secret" in volume else None
    if path is None:
        return volume
    return {"name": volume["name"], "hostPath": {"path": str(path), "type": "Directory"}}


def tmp_bytes(pod: Mapping[str, Any]) -> str:
    """Return the size of the volume at /tmp, as `mount` reads it."""
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert volume["emptyDir"]["medium"] == "Memory"
    return volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()


def _container(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((c for c in pod["containers"] if c["name"] == "rope-service"), None)
