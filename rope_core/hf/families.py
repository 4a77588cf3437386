"""The table of model families: `families.json`, a row for each, with its rules as functions.

To add a family, add a row with the fields that differ from Llama's (family.py describes them). If
the family does a step in a way that no field describes, add one function to oddities.py and name it
in the row under `oddities`.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from rope_core.hf import attention, custom_rotations, head_dim, layer_types, nope, oddities
from rope_core.hf.family import Family

RULES = {
    "layer_types": layer_types,
    "nope": nope,
    "head_dim": head_dim,
    "softmax_scale": attention,
    "two_sided_window": attention,
    "rotation": custom_rotations,
}
"""The module of the function that a field of a row names; for `oddities` it is oddities.py."""


@cache
def families() -> Mapping[str, Family]:
    """Return all families by model_type."""
    rows = json.loads((files("rope_core.hf") / "families.json").read_text())
    return MappingProxyType(
        {
            name: Family(**{"name": name, "module": name, **_fields(row)})
            for name, row in rows.items()
        }
    )


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a row: rules as functions, lists as tuples."""
    values = dict(row)
    for field, value in row.items():
        if field in RULES:
            values[field] = getattr(RULES[field], value)
        elif field == "oddities":
            values[field] = {step: getattr(oddities, rule) for step, rule in value.items()}
        elif field == "in_4_57":
            values[field] = _fields(value)
        elif isinstance(value, list):
            values[field] = tuple(value)
    return values


@cache
def model_type_aliases() -> Mapping[str, str]:
    """Return the families' names by their other model types."""
    return {
        alias: family.name for family in families().values() for alias in family.model_type_aliases
    }


@cache
def diffusers_classes() -> Mapping[str, str]:
    """Return the families' names by class of diffusers."""
    return {alias: family.name for family in families().values() for alias in family.class_names}


@cache
def parts(module: str) -> tuple[Family, ...]:
    """Return the families of a module, text first."""
    members = [family for family in families().values() if family.module == module]
    main = (module, f"{module}_text")
    return tuple(
        sorted(members, key=lambda family: (family.part != "text", family.name not in main))
    )
