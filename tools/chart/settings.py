"""Settings of the service in the schema of the chart's values."""

import json
from typing import Any

import yaml

from service.settings import PREFIX, Settings
from tools.chart.paths import SCHEMA, VALUES

KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength")
"""Keywords of pydantic's schema that the chart checks as well."""

NULLABLE = ("podSecurityContext", "securityContext", "topologySpreadConstraints")
"""Values that may be null: the chart then writes nothing."""

NULLABLE_MAPS = ("resources", "settings", "labels")
"""Definitions of maps that may be empty."""


def variables() -> dict[str, dict[str, Any]]:
    """Return the schema of each environment variable of the service."""
    properties = Settings.model_json_schema()["properties"]
    return {PREFIX + name.upper(): _value_schema(each) for name, each in properties.items()}


def _value_schema(field: dict[str, Any]) -> dict[str, Any]:
    # an optional field is "anyOf" of its type and null; the chart leaves the setting out
    branches = [each for each in field.get("anyOf", []) if each.get("type") != "null"]
    source = field | (branches[0] if branches else {})
    schema = {key: source[key] for key in KEPT if key in source}
    return {"description": " ".join(field["description"].split()), **schema}


def render_schema() -> str:
    """Return values.schema.json with the settings of the service and the required values."""
    schema = json.loads(SCHEMA.read_text())
    known = variables()
    schema["definitions"]["settings"]["properties"] = known
    # other names of `env` are free, but a misspelt setting would stop the start of the service
    schema["definitions"]["variable"]["then"]["properties"]["name"]["enum"] = sorted(known)
    needed: dict[str, set[str]] = {}
    _require(schema, yaml.safe_load(VALUES.read_text()), schema["definitions"], needed)
    for name, keys in needed.items():
        schema["definitions"][name]["required"] = sorted(keys)
    return json.dumps(schema, indent=2) + "\n"


def _require(
    schema: dict[str, Any],
    values: dict[str, Any],
    definitions: dict[str, Any],
    needed: dict[str, set[str]],
) -> None:
    """Make values required that templates need, because null would remove them.

    Values that are empty in values.yaml may be null, except `settings`.

    Args:
        schema: schema of a map of values; changed by this function.
        values: defaults of that map.
        definitions: definitions of the whole schema.
        needed: output: the required names of each definition that several maps use.
    """
    name = schema.get("$ref", "").rpartition("/")[2]
    target = definitions[name] if name else schema
    if name in NULLABLE_MAPS or "properties" not in target:
        return
    keys = {
        key
        for key, value in values.items()
        if (value not in (None, "", [], {}) or key == "settings") and key not in NULLABLE
    }
    if name:
        needed[name] = needed.get(name, keys) & keys
    elif keys:
        target["required"] = sorted(keys)
    for key, value in values.items():
        if isinstance(value, dict) and key in target["properties"]:
            _require(target["properties"][key], value, definitions, needed)
