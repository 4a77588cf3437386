"""The tables of model families, with a row for each family.

`families.json` has the classes of transformers and diffusers. `remote_families.json` has, with the
source of each row, what follows other published code. `no_rope.json` has the model types without
rotary embedding and the composite models; `tools/no_rope.py` writes it.

To add a family, add a row with the fields that differ from Llama's (family.py describes them). If
the family does a step in a way that no field describes, add one function to oddities.py (or, for
code that is not in transformers, to remote_code.py) and name it in the row under `oddities`.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from rope_core.hf import (
    attention,
    custom_rotations,
    head_dim,
    hybrid_layer_types,
    layer_types,
    nope,
    oddities,
    remote_code,
    remote_rotations,
)
from rope_core.hf.family import Family, Rule

RULES = {
    "layer_types": layer_types,
    "nope": nope,
    "head_dim": head_dim,
    "softmax_scale": attention,
    "two_sided_window": attention,
    "rotation": custom_rotations,
}
"""The module of the function that a field of a row names; for `oddities` it is oddities.py. The
functions of families of remote code are in remote_code.py and remote_rotations.py; those of layer
types of models without rotary embedding in hybrid_layer_types.py."""

TABLES = ("families.json", "remote_families.json")


@cache
def families() -> Mapping[str, Family]:
    """Return all families with rotary embedding by model_type."""
    rows: dict[str, dict[str, Any]] = {}
    for table in TABLES:
        rows |= json.loads((files("rope_core.hf") / table).read_text())
    return _families_of(rows)


@cache
def families_without_rope() -> Mapping[str, Family]:
    """Return all families without rotary embedding by model_type."""
    return _families_of(_without_rope()["model_types"])


def models_without_rope() -> dict[str, list[str]]:
    """Return the model types without rotary embedding, by what they have instead."""
    models: dict[str, list[str]] = {}
    for name, family in families_without_rope().items():
        models.setdefault(family.no_rope or "", []).append(name)
    return dict(sorted(models.items()))


@cache
def _without_rope() -> dict[str, Any]:
    """Return the contents of `no_rope.json`, which `tools/no_rope.py` writes."""
    table: dict[str, Any] = json.loads((files("rope_core.hf") / "no_rope.json").read_text())
    return table


class Part(NamedTuple):
    """A part of a composite model, as the composite's class has it by default."""

    key: str | None = None
    """Where a config.json has the config of the part."""

    model_type: str | None = None
    values: Mapping[str, Any] = MappingProxyType({})
    """Keys with another value than the part's own class has."""


@cache
def composites() -> Mapping[str, Mapping[str, Part]]:
    """Return the parts of composite model types."""
    return {
        name: {part: Part(*fields) for part, fields in parts.items()}
        for name, parts in _without_rope()["composites"].items()
    }


def _families_of(rows: dict[str, dict[str, Any]]) -> Mapping[str, Family]:
    return MappingProxyType(
        {
            name: Family(**{"name": name, "module": name, **_fields(row)})
            for name, row in sorted(rows.items())
        }
    )


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a row: rules as functions, lists as tuples."""
    values = dict(row)
    for field, value in row.items():
        if field in RULES:
            values[field] = _rule(RULES[field], value)
        elif field == "oddities":
            values[field] = {step: _rule(oddities, rule) for step, rule in value.items()}
        elif field == "in_4_57":
            values[field] = _fields(value)
        elif isinstance(value, list):
            values[field] = tuple(value)
    return values


def _rule(module: ModuleType, name: str) -> Rule:
    """Return the function of a name, from the module of its kind or from those of remote code."""
    modules = (module, hybrid_layer_types, remote_code, remote_rotations)
    rule: Rule = next(getattr(each, name) for each in modules if hasattr(each, name))
    return rule


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
    main = (module, f"{module}_text", composites().get(module, {}).get("text", Part()).model_type)
    return tuple(
        sorted(members, key=lambda family: (family.part != "text", family.name not in main))
    )
