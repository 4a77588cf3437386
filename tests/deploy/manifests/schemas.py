"""Strict schemas of Kubernetes and of the operators that the manifests use.

An unknown field is an error, and so is a kind without a schema.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from pydantic import BaseModel, ValidationError
from referencing import Registry, Resource

VERSIONS = ("1.29", "1.32", "1.34", "1.37")
"""Versions of Kubernetes: an old one that is still in use, two common ones, the latest."""

FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"

MODELS = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
}
"""Modules with the models of custom resources, by apiVersion."""


def schema_errors(obj: dict[str, Any], version: str = VERSIONS[-1]) -> list[str]:
    """Return the errors of an object, each with its path; empty if it is valid.

    Args:
        obj: as it is in YAML.
        version: of Kubernetes; not used for custom resources.
    """
    try:
        api_version, kind, name = obj["apiVersion"], obj["kind"], obj["metadata"]["name"]
    except (KeyError, TypeError) as error:
        return [f"no {error} in {str(obj)[:200]}"]
    where = f"{kind}/{name} (Kubernetes {version})"
    if api_version in MODELS:
        found = _errors_of_model(obj, api_version)
    else:
        validator = _validator(version, api_version, kind)
        if validator is None:
            return [f"{where}: there is no schema for {api_version} {kind}"]
        found = (f"{each.json_path}: {each.message[:300]}" for each in validator.iter_errors(obj))
    return [f"{where} {each}" for each in found]


def _errors_of_model(obj: dict[str, Any], api_version: str) -> Iterator[str]:
    model = getattr(import_module(MODELS[api_version]), obj["kind"], None)
    if model is None or not issubclass(model, BaseModel):
        yield f"there is no schema for {api_version} {obj['kind']}"
        return
    try:
        model.model_validate(obj, extra="forbid", by_alias=True, by_name=False)
    except ValidationError as error:
        for each in error.errors():
            yield f"$.{'.'.join(map(str, each['loc']))}: {each['msg']}"


@cache
def _registry(version: str) -> tuple[Path, Registry[Any]]:
    folder = FOLDER / f"v{version}.0-local-strict"
    definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return folder, definitions @ Registry()


@cache
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator | None:
    folder, registry = _registry(version)
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    return jsonschema.Draft202012Validator(json.loads(path.read_text()), registry=registry)
