"""References between the objects of a release."""

from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]


def dangling(objects: list[Object], outside: tuple[str, ...] = ()) -> list[str]:
    """Return references that lead nowhere.

    Args:
        objects: of one release.
        outside: names of Secrets and ConfigMaps that the user makes.
    """
    references = _References(objects, outside)
    checks: dict[str, Callable[[Object], Iterator[str]]] = {
        "Service": references.service,
        "Deployment": references.workload,
        "StatefulSet": references.workload,
        "PodDisruptionBudget": lambda each: references.pods(
            each["spec"]["selector"]["matchLabels"]
        ),
        "NetworkPolicy": lambda each: references.pods(
            each["spec"]["podSelector"].get("matchLabels")
        ),
        "HorizontalPodAutoscaler": lambda each: references.target(each["spec"]["scaleTargetRef"]),
        "ScaledObject": lambda each: references.target(each["spec"]["scaleTargetRef"]),
        "ServiceMonitor": references.service_monitor,
        "PodMonitor": references.pod_monitor,
        "Ingress": references.ingress,
    }
    return [
        f"{each['kind']}/{each['metadata']['name']}: {error}"
        for each in objects
        if each["kind"] in checks
        for error in checks[each["kind"]](each)
    ]


def matches(labels: Object | None, selector: Object | None) -> bool:
    return (selector or {}).items() <= (labels or {}).items()


class _References:
    """Yields the references of an object that lead nowhere, one method for each kind of object."""

    def __init__(self, objects: list[Object], outside: tuple[str, ...]) -> None:
        self._objects = objects
        self._outside = outside
        self._names = {(each["kind"], each["metadata"]["name"]) for each in objects}

    def _of(self, *kinds: str) -> list[Object]:
        return [each for each in self._objects if each["kind"] in kinds]

    def _templates(self, selector: Object | None) -> list[Object]:
        """Return the templates of the pods that have these labels."""
        templates = [each["spec"]["template"] for each in self._of("Deployment", "StatefulSet")]
        return [each for each in templates if matches(each["metadata"]["labels"], selector)]

    def pods(self, selector: Object | None) -> Iterator[str]:
        if len(self._templates(selector)) != 1:
            yield f"{selector} selects the pods of {len(self._templates(selector))} workloads"

    def service(self, service: Object) -> Iterator[str]:
        selector = service["spec"]["selector"]
        yield from self.pods(selector)
        for template in self._templates(selector):
            ports = _port_names(template)
            for port in service["spec"]["ports"]:
                if port.get("targetPort", port["port"]) not in ports:
                    yield f"no container has the port {port['targetPort']}"

    def workload(self, workload: Object) -> Iterator[str]:
        spec = workload["spec"]
        template = spec["template"]
        if not matches(template["metadata"]["labels"], spec["selector"]["matchLabels"]):
            yield "the selector does not match the labels of its pods"
        if "serviceName" in spec and ("Service", spec["serviceName"]) not in self._names:
            yield f"no Service {spec['serviceName']}"
        account = template["spec"].get("serviceAccountName", "default")
        if account != "default" and ("ServiceAccount", account) not in self._names:
            yield f"no ServiceAccount {account}"
        for constraint in template["spec"].get("topologySpreadConstraints", ()):
            selector = constraint["labelSelector"]["matchLabels"]
            if not matches(template["metadata"]["labels"], selector):
                yield f"the topology spread selects other pods: {selector}"
        yield from self._volumes(template["spec"])
        yield from self._variables(template["spec"])

    def _volumes(self, pod: Object) -> Iterator[str]:
        volumes = {each["name"]: each for each in pod.get("volumes", ())}
        mounted = set()
        for container in _containers(pod):
            for mount in container.get("volumeMounts", ()):
                mounted.add(mount["name"])
                if mount["name"] not in volumes:
                    yield f"no volume {mount['name']}"
        for name, volume in volumes.items():
            if name not in mounted:
                yield f"the volume {name} is not mounted"
            if "secret" in volume:
                yield from self._named("Secret", volume["secret"]["secretName"])
            if "configMap" in volume:
                yield from self._named("ConfigMap", volume["configMap"]["name"])

    def _variables(self, pod: Object) -> Iterator[str]:
        for container in _containers(pod):
            names = [each["name"] for each in container.get("env", ())]
            if len({*names}) != len(names):
                yield f"a variable is set twice: {sorted(names)}"
            for variable in container.get("env", ()):
                source = variable.get("valueFrom", {})
                if "secretKeyRef" in source:
                    yield from self._named("Secret", source["secretKeyRef"]["name"])
                if "configMapKeyRef" in source:
                    yield from self._named("ConfigMap", source["configMapKeyRef"]["name"])

    def _named(self, kind: str, name: str) -> Iterator[str]:
        if (kind, name) not in self._names and name not in self._outside:
            yield f"no {kind} {name}"

    def target(self, reference: Object) -> Iterator[str]:
        if (reference["kind"], reference["name"]) not in self._names:
            yield f"no {reference['kind']} {reference['name']}"
        for each in self._of(reference["kind"]):
            if each["metadata"]["name"] == reference["name"] and "replicas" in each["spec"]:
                yield "an upgrade would set the number of pods that the autoscaler has chosen"

    def service_monitor(self, monitor: Object) -> Iterator[str]:
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [
            each for each in self._of("Service") if matches(each["metadata"]["labels"], selector)
        ]
        if len(services) != 1:
            yield f"selects {len(services)} Services: each pod must be read once"
        for service in services:
            names = {port["name"] for port in service["spec"]["ports"]}
            for endpoint in monitor["spec"]["endpoints"]:
                if endpoint["port"] not in names:
                    yield f"no port {endpoint['port']}"

    def pod_monitor(self, monitor: Object) -> Iterator[str]:
        selector = monitor["spec"]["selector"]["matchLabels"]
        yield from self.pods(selector)
        for template in self._templates(selector):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in _port_names(template):
                    yield f"no port {endpoint['port']}"

    def ingress(self, ingress: Object) -> Iterator[str]:
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield from self._named("Service", path["backend"]["service"]["name"])


def _containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def _port_names(template: Object) -> set[Any]:
    ports = [port for each in _containers(template["spec"]) for port in each.get("ports", ())]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}
