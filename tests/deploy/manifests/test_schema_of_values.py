"""values.schema.json and values.yaml have the same names, and profiles have no others."""

from typing import Any

import helm_python
import pytest
import yaml

from tests.deploy.manifests.render import CHART, merge, profile, profiles, refusal

OPTIONAL = (".global", ".settings", ".probes", ".image", ".resources")
"""Maps with more names: those of the service or of Kubernetes."""


def paths(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> set[str]:
    """Return the paths of all names that a schema knows."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    found = {path}
    for key, value in schema.get("properties", {}).items():
        found |= paths(value, definitions, f"{path}.{key}")
    return found


def documented(values: Any, path: str = "") -> dict[str, Any]:
    found = {path: values}
    for key, value in values.items() if isinstance(values, dict) else ():
        found |= documented(value, f"{path}.{key}")
    return found


def test_values_yaml_has_all_names_of_the_schema():
    with helm_python.Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema is not None
    values = documented(yaml.safe_load((CHART / "values.yaml").read_text()))
    missing = {
        path
        for path in paths(schema, schema["definitions"]) - values.keys()
        # what an empty map may have is in its comment
        if values.get(path.rpartition(".")[0]) != {}
        and not path.startswith(OPTIONAL)
        and not path.endswith(".resources.claims")
    }
    assert not missing


@pytest.mark.parametrize("name", profiles())
def test_a_profile_with_one_unknown_value_is_refused(name):
    assert refusal(profile(name)) == ""
    assert "'colour'" in refusal(merge(profile(name), {"colour": "blue"}))
