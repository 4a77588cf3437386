"""Parts of the rendered chart that several tests look at."""

from typing import Any

from tests.deploy.manifests.render import Object, Values, of_kind, render


def workload(values: Values | None = None) -> Object:
    """Return the Deployment or StatefulSet of the service."""
    [found] = [
        each
        for each in of_kind(render(values), "Deployment", "StatefulSet")
        if not each["metadata"]["name"].endswith("-router")
    ]
    return found


def pod(values: Values | None = None) -> dict[str, Any]:
    return workload(values)["spec"]["template"]["spec"]


def container(values: Values | None = None) -> dict[str, Any]:
    return pod(values)["containers"][0]


def variables(values: Values | None = None) -> dict[str, Any]:
    """Return the environment by name; a variable from elsewhere is its `valueFrom`."""
    return {
        each["name"]: each["value"] if "value" in each else each["valueFrom"]
        for each in container(values)["env"]
    }
