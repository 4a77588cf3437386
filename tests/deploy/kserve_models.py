"""Checks manifests against the models of KServe's SDK, which are generated from its CRDs.

Errors are unknown fields, values of another type, and required fields that are missing.
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
KUBERNETES_PREFIX = re.compile(r"K8sIoApi(?:Apps|Core|Autoscaling|Policy)?(?=V\d)")
SCALARS: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": float}
QUANTITIES = {"V1beta1MetricQuantity", "ResourceQuantity"}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def schema_errors(obj: dict[str, Any]) -> list[str]:
    """Return the errors of an object, each with its path; empty if it is valid."""
    name = MODELS.get((obj.get("apiVersion", ""), obj.get("kind", "")))
    if name is None:
        return [f"there is no model of {obj.get('apiVersion')} {obj.get('kind')}"]
    return [*_errors(obj, name, "$")]


def _model(name: str) -> Any:
    name = KUBERNETES_PREFIX.sub("", name)
    return getattr(kserve.models, name, None) or getattr(kubernetes.client.models, name)


def _errors(value: Any, kind: str, path: str) -> Iterator[str]:
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
            yield from _errors(item, items[1], f"{path}[{n}]")
    elif values := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
            return
        for key, item in value.items():
            yield from _errors(item, values[1], f"{path}.{key}")
    else:
        yield from _errors_of_model(value, _model(kind), path)


def _errors_of_model(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    # `aPI` of some attributes is another spelling of the attribute, not of the field
    fields = {field: attribute for attribute, field in model.attribute_map.items()}
    for key, item in value.items():
        if key in fields:
            yield from _errors(item, model.openapi_types[fields[key]], f"{path}.{key}")
        else:
            yield f"{path}.{key}: unknown field"
    try:
        model(**{fields[key]: item for key, item in value.items() if key in fields})
    except ValueError as error:
        yield f"{path}: {error}"
