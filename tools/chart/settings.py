"""Settings of the service in the schema of the chart's values."""

import json
from typing import Any

from service.settings import PREFIX, Settings
from tools.chart.paths import SCHEMA

KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength")
"""Keywords of pydantic's schema that the chart checks as well."""


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
    """Return values.schema.json with the settings that the service has."""
    schema = json.loads(SCHEMA.read_text())
    known = variables()
    schema["definitions"]["settings"]["properties"] = known
    # other names of `env` are free, but a misspelt setting would stop the start of the service
    schema["definitions"]["variable"]["then"]["properties"]["name"]["enum"] = sorted(known)
    return json.dumps(schema, indent=2) + "\n"
