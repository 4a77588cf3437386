"""The objects that KServe's controller makes of a runtime and an InferenceService in Standard mode.

From KServe's sources (pkg/controller/v1beta1/inferenceservice), for the fields that deploy/kserve
uses.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

FOLDER = Path(__file__).parents[3] / "deploy" / "kserve"
CONTAINER = "kserve-container"
PREDICTOR_FIELDS = {
    *("minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy", "model"),
    *("labels", "annotations", "timeout", "containerConcurrency"),
}
"""Fields of a predictor that are no fields of a pod."""
MODEL_FIELDS = {"modelFormat", "runtime", "protocolVersion", "storageUri", "runtimeVersion"}
"""Fields of a predictor's model that are no fields of a container."""


def load(name: str) -> Object:
    """Return the object of a file of deploy/kserve."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def services() -> list[str]:
    """Return the names of the files that have an InferenceService."""
    return sorted(path.stem for path in FOLDER.glob("inference-service-*.yaml"))


def _merge_named(base: list[Object], changes: list[Object]) -> list[Object]:
    """Merge two lists as Kubernetes merges env, ports and volumes: by the name of an item."""
    merged = {each["name"]: each for each in base}
    return [*(merged | {each["name"]: each for each in changes}).values()]


def pod_spec(runtime: Object, service: Object) -> Object:
    """Return the pod: the container of the runtime with what the predictor changes in it."""
    predictor = service["spec"]["predictor"]
    [container] = copy.deepcopy(runtime["spec"]["containers"])
    assert container["name"] == CONTAINER
    for field, value in predictor["model"].items():
        if field in MODEL_FIELDS:
            continue
        if field in ("env", "ports", "volumeMounts"):
            container[field] = _merge_named(container.get(field, []), value)
        else:
            container[field] = value
    pod = {field: value for field, value in predictor.items() if field not in PREDICTOR_FIELDS}
    volumes = _merge_named(runtime["spec"].get("volumes", []), pod.get("volumes", []))
    return {**pod, "volumes": volumes, "containers": [container]}


def labels(service: Object) -> dict[str, str]:
    """Return the labels of its pods."""
    name = service["metadata"]["name"]
    return {
        "app": f"isvc.{name}-predictor",
        "component": "predictor",
        "serving.kserve.io/inferenceservice": name,
    }


def deployment(runtime: Object, service: Object) -> Object:
    """Return the Deployment of a predictor."""
    predictor = service["spec"]["predictor"]
    app = {"app": labels(service)["app"]}
    annotations = runtime["spec"].get("annotations", {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{service['metadata']['name']}-predictor"},
        "spec": {
            "replicas": predictor["minReplicas"],
            "selector": {"matchLabels": app},
            "strategy": predictor["deploymentStrategy"],
            "template": {
                "metadata": {"labels": labels(service), "annotations": annotations},
                "spec": pod_spec(runtime, service),
            },
        },
    }


def service_ports(runtime: Object, service: Object) -> dict[str, tuple[int, int]]:
    """Return the ports of its Service by name: the port of the Service, and that of the pod."""
    [container] = pod_spec(runtime, service)["containers"]
    first, *others = container["ports"]
    ports = {first["name"]: (80, first["containerPort"])}
    return ports | {each["name"]: (each["containerPort"], each["containerPort"]) for each in others}


def scaled_object(service: Object) -> Object:
    """Return the ScaledObject for the class keda; KServe passes on only the windows of behavior."""
    predictor = service["spec"]["predictor"]
    name = f"{service['metadata']['name']}-predictor"
    scaling = predictor["autoScaling"]
    behavior = {
        way: {"stabilizationWindowSeconds": rules["stabilizationWindowSeconds"]}
        for way, rules in scaling.get("behavior", {}).items()
    }
    triggers = []
    for metric in scaling["metrics"]:
        assert metric["type"] == "External"
        source = metric["external"]["metric"]
        threshold = f"{float(metric['external']['target']['value']):f}"
        data = {"serverAddress": source["serverAddress"], "query": source["query"]}
        triggers.append(
            {"type": source["backend"], "metadata": {**data, "threshold": threshold}}
        )  # without a metricType: KEDA takes AverageValue
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": predictor["minReplicas"],
            "maxReplicaCount": predictor["maxReplicas"],
            "triggers": triggers,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
        },
    }
