"""The parameters that two ropes do not share, and the keys of configs that they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.axes import SCHEMES
from rope_core.config import RopeConfig
from rope_core.frequencies import VARIANTS
from rope_core.hf import Resolved
from rope_core.hf.lengths import MAX, ORIGINAL
from rope_core.hf.variant import BETAS

FIELDS = (
    *("attention_scaling", "head_dim", "rotary_dim", "frequency_dim", "layout", "trailing"),
    *("blocks", "negative", "axes", "learned", "values", "whole_positions", "arithmetic"),
    "rounding",
)
"""Fields of a RopeConfig in the order in which differences are listed, after the variant."""

LENGTHS = ("length", MAX)
"""Parameters of variants that can be without effect."""

SCALED = ("yarn", "longrope")
"""Variants whose `factor` can follow from the lengths."""

NAMES_IN_CONFIG = {
    "theta": ("rope_theta",),
    "rotary_dim": ("partial_rotary_factor", "rotary_dim", "head_dim"),
    "attention_scaling": ("attention_factor", "factor"),
    "xdrope_section": ("mrope_section",),
}
"""Names that the provenance of a config has for parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterDifference:
    """A parameter that two ropes do not share."""

    parameter: str
    """`rotates`, or a name of `RopeConfig`, of its variant or of its scheme."""

    rope: Any
    """None where the rope has no such parameter."""

    other: Any
    config_key: str | None
    """The key of a config that a value comes from, or the formula; None if both have a default."""


def parameter_differences(rope: Resolved, other: Resolved) -> tuple[ParameterDifference, ...]:
    """Return the parameters that differ, the variant's first."""
    if (rope.rope is None) != (other.rope is None):
        rotates = rope.rope is not None
        return (
            ParameterDifference(
                parameter="rotates", rope=rotates, other=not rotates, config_key=None
            ),
        )
    values, other_values = _values(rope), _values(other)
    return tuple(
        ParameterDifference(
            parameter=name,
            rope=values.get(name),
            other=other_values.get(name),
            config_key=_config_key(name, rope, other),
        )
        for name in dict.fromkeys((*values, *other_values))
        if values.get(name) != other_values.get(name)
    )


def _values(resolved: Resolved) -> dict[str, Any]:
    """Return all parameters of a rope by name, in the order in which they are listed."""
    rope = resolved.rope
    if rope is None:
        return {}
    values: dict[str, Any] = {"rope_type": rope.rope_type}
    if rope.rope_type != "inv_freq":  # which reads no base
        values["theta"] = rope.theta
    given: dict[str, Any] = {**dict(rope.parameters), **dict(rope.axes_parameters)}
    for name, default in _defaults(rope).items():
        value = given.get(name, default)
        if value is not None and (name not in LENGTHS or _has_effect(name, rope)):
            values[name] = [*value] if isinstance(value, tuple) else value
    if rope.rope_type in SCALED and "factor" not in values and MAX in given:
        values["factor"] = given[MAX] / given[ORIGINAL]
    values |= {name: getattr(rope, name) for name in FIELDS}
    return values


def _has_effect(name: str, rope: RopeConfig) -> bool:
    """Tell whether a length changes the rotation: not max_position_embeddings beside a factor."""
    return name in dict(rope.parameters) and (name == "length" or rope.rope_type == "dynamic")


def _defaults(rope: RopeConfig) -> Mapping[str, Any]:
    """Return the parameters of a rope's variant and scheme, and their defaults.

    Without `attention_factor`: `attention_scaling` has its effect.
    """
    entries = [VARIANTS[rope.rope_type]]
    entries += [SCHEMES[rope.axes]] if rope.axes else []
    defaults = {
        name: entry.parameters[name].default for entry in entries for name in entry.parameters
    }
    betas = BETAS if rope.rope_type == "yarn" else {}
    return {name: value for name, value in (defaults | betas).items() if name != "attention_factor"}


def _config_key(name: str, rope: Resolved, other: Resolved) -> str | None:
    """Return the key or formula of the first of the two ropes that has one."""
    names = NAMES_IN_CONFIG.get(name, (name,))
    for source in ("given", "derived"):
        for resolved in (rope, other):
            for known in names:
                if resolved.provenance.get(known) == source:
                    return resolved.why.get(known)
    return None
