"""Checks manifests against the models of KServe's SDK, which are made from the types of its CRDs.

An unknown field is a fault, a value of another type, and a required field that is missing.
"""

import re
from collections.abc import Iterator
from typing import Any

import kserve.models
import kubernetes.client.models

MODELS = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
OF_KUBERNETES = re.compile(r"K8sIoApi(?:Apps|Core|Autoscaling|Policy)?(?=V\d)")
SCALARS: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": float}
QUANTITIES = {"V1beta1MetricQuantity", "ResourceQuantity"}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def faults(obj: dict[str, Any]) -> list[str]:
    """Return what is wrong in an object, each with its path; empty if it is valid."""
    name = MODELS.get((obj.get("apiVersion", ""), obj.get("kind", "")))
    if name is None:
        return [f"there is no model of {obj.get('apiVersion')} {obj.get('kind')}"]
    return [*_faults(obj, name, "$")]


def _model(name: str) -> Any:
    name = OF_KUBERNETES.sub("", name)
    return getattr(kserve.models, name, None) or getattr(kubernetes.client.models, name)


def _faults(value: Any, kind: str, path: str) -> Iterator[str]:
    if kind == "object":
        return
    if kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (kind != "bool" and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind}"
    elif kind in QUANTITIES:
        if isinstance(value, bool) or not QUANTITY.fullmatch(str(value)):
            yield f"{path}: {value!r} is no quantity"
    elif items := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for n, item in enumerate(value):
            yield from _faults(item, items[1], f"{path}[{n}]")
    elif values := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
            return
        for key, item in value.items():
            yield from _faults(item, values[1], f"{path}.{key}")
    else:
        yield from _faults_of_model(value, _model(kind), path)


def _faults_of_model(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    # `aPI` of some attributes is another spelling of the attribute, not of the field
    fields = {field: attribute for attribute, field in model.attribute_map.items()}
    for key, item in value.items():
        if key in fields:
            yield from _faults(item, model.openapi_types[fields[key]], f"{path}.{key}")
        else:
            yield f"{path}.{key}: unknown field"
    try:
        model(**{fields[key]: item for key, item in value.items() if key in fields})
    except ValueError as error:
        yield f"{path}: {error}"
