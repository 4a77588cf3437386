"""From the values that a config resolves to, to a `RopeConfig` and to transformers 5's spelling."""

from typing import Any

from rope_core.config import Arithmetic, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.frequencies import VARIANTS
from rope_core.hf import variant
from rope_core.hf.config_reader import CLASS_DEFAULT, GIVEN, ConfigReader
from rope_core.hf.families import families
from rope_core.hf.family import UNKNOWN
from rope_core.hf.head_dim import from_config, latent
from rope_core.hf.rope_parameters import RopeParameters

Fields = dict[str, Any]
Built = tuple[RopeConfig, dict[str, Any]]

OF_HEAD_DIM = frozenset(("rotary_dim", "axes_dim", "axes_order", "blocks", "num_spatial_pairs"))
"""Fields of a RopeConfig that follow from the width of a head."""

IN_DICTIONARY = {"mrope_section", "xdrope_section"}.union(
    *(entry.parameters for entry in VARIANTS.values())
) - {"max_position_embeddings", "partial_rotary_factor"}
"""Parameters that a config has nowhere but in its rope parameters."""

SECTIONED = ("mrope", "mrope_interleaved", "mrope_hw_t", "xdrope")
"""Schemes whose axes have sections of the frequencies."""


def custom(reader: ConfigReader, head_dim: int | None, arithmetic: Arithmetic) -> Built:
    """Return the rotation of a family with a rule for its whole config."""
    family = reader.family
    fields: Fields = {**family.rope_config, **(family.rotation(reader) if family.rotation else {})}
    fields.setdefault("head_dim", head_dim or fields.get("rotary_dim"))
    fields.setdefault("layout", family.layout)
    rope = _build(reader, fields, arithmetic)
    return rope, {"rope_type": rope.rope_type, "rope_theta": rope.theta, **dict(rope.parameters)}


def standard(
    reader: ConfigReader, block: RopeParameters, head_dim: int | None, arithmetic: Arithmetic
) -> Built:
    """Return the rotation that rope parameters describe, in the order of the list in resolve.py."""
    family = reader.family
    rope_type = variant.rope_type(reader, block)  # 5
    config_dim: int = (family.head_dim or from_config)(reader, rope_type)  # 6
    theta = variant.theta(reader, block)  # 7
    is_latent = family.head_dim is latent  # 8
    factor = (
        None if is_latent else variant.partial_rotary_factor(reader, block, config_dim, rope_type)
    )
    rule = family.step("variant_parameters", variant.parameters)
    values: Fields = rule(reader, block, rope_type)  # 9, 10
    rotated_channels = family.step("rotated_channels", _rotated_channels)
    rotated: int = rotated_channels(reader, block, rope_type, config_dim, factor)
    if rope_type == "proportional" and factor is not None:
        values["partial_rotary_factor"] = factor
    axes = _axes(reader, block, rotated)  # 11
    layout = family.layout
    if "rope_interleave" in family.defaults and reader.get("rope_interleave") is False:
        layout = "half"
    fields = {
        "head_dim": config_dim,
        "rotary_dim": rotated + rotated % 2,
        "frequency_dim": rotated if rotated % 2 else None,
        "theta": theta,
        "rope_type": rope_type,
        "layout": layout,
        **family.rope_config,
        **axes,
        **(_whole_head(reader, config_dim, head_dim) if is_latent else {}),
    }
    family.step("heads", lambda _: None)(reader)
    if factor is not None and (rotated < 1 or rotated > config_dim):
        expected = f"such that 1 to {config_dim} channels of a head rotate"
        raise ConfigError(reader.key_name("partial_rotary_factor"), expected, factor)
    variant.warn_of_ranges(reader, rope_type, values)
    _warn_of_versions(reader, block, rope_type)
    rope = _build(reader, {**fields, **values}, arithmetic, f"{block.name}.")
    attention_factor = rope.attention_scaling
    complete = variant.complete(reader, rope_type, theta, values, attention_factor)
    if factor is not None:
        complete["partial_rotary_factor"] = factor
    for key in ("mrope_section", "xdrope_section"):
        if key in axes:
            complete["mrope_section"] = [*axes[key]]
    if axes.get("axes") == "mrope_interleaved":
        complete["mrope_interleaved"] = True
    if "llama_4_scaling_beta" in block.values:
        beta = complete["llama_4_scaling_beta"] = block.values["llama_4_scaling_beta"]
        variant.check_numbers(f"{block.name}.llama_4_scaling_beta", beta)
    return rope, complete


def _rotated_channels(
    reader: ConfigReader,
    block: RopeParameters,
    rope_type: str,
    head_dim: int,
    factor: float | None,
) -> int:
    """Return how many channels of a head have frequencies."""
    family = reader.family
    if rope_type == "proportional" or factor is None:
        return head_dim
    if rope_type == "default" and family.whole_head_by_default and not reader.is_4_57:
        if factor != 1.0:
            key = "partial_rotary_factor"
            path = f"{block.name}.{key}" if key in block.values else reader.key_name(key)
            reader.ignore(path, f"{family.name}'s default frequencies are for the whole head")
        return head_dim
    return int(head_dim * factor)


def _whole_head(reader: ConfigReader, config_dim: int, head_dim: int | None) -> Fields:
    """Return the fields of an MLA head with its part that does not rotate, if tensors have it.

    Raises:
        ConfigError: heads are neither whole nor the part that rotates.
    """
    if head_dim in (None, config_dim):
        return {}
    expected = f"{config_dim}: the part of each head that rotates, qk_rope_head_dim"
    if reader.get("qk_nope_head_dim") is not None:
        whole = config_dim + (nope := reader.size("qk_nope_head_dim"))
        if head_dim == whole:
            return {"head_dim": whole, "trailing": True}
        expected += f"; or {whole}: the whole head, {nope} channels that do not rotate in front"
    raise ConfigError("head_dim", expected, head_dim)


def _axes(reader: ConfigReader, block: RopeParameters, rotated: int) -> Fields:
    """Return the fields of the scheme of several axes."""
    family, values = reader.family, block.values
    axes = family.axes
    sections = values.get("mrope_section") or values.get("xdrope_section")
    if axes is None and sections and family is UNKNOWN:
        axes = "mrope_interleaved" if values.get("mrope_interleaved") else "mrope"
    if axes is None:
        if sections:
            reader.ignore(f"{block.name}.mrope_section", f"{family.name} has one axis")
        return {}
    if axes in SECTIONED:
        name = "mrope_section" if values.get("mrope_section") else "xdrope_section"
        reader.record("mrope_section", GIVEN, block.path(name))
        sections = sections or reader.get("mrope_section")
        if not isinstance(sections, list | tuple):
            raise ConfigError(f"{block.name}.mrope_section", "a list of numbers", brief(sections))
        variant.check_numbers(f"{block.name}.mrope_section", sections)
        key = "xdrope_section" if axes == "xdrope" else "mrope_section"
        return {"axes": axes, key: tuple(sections)}
    if axes == "axial_thirds":
        width = 2 * (rotated // 3 // 2)
        return {"axes": "axial", "axes_dim": (width,) * 3, "rotary_dim": 3 * width}
    fields: Fields = {"axes": axes}
    if axes == "axial":
        fields["axes_dim"] = (rotated // 2,) * 2
    return fields | ({"axes_order": family.axes_order} if family.axes_order else {})


def _warn_of_versions(reader: ConfigReader, block: RopeParameters, variant: str) -> None:
    """Warn where the two versions compute different numbers from one config."""
    family = reader.family
    family.step("version_warnings", lambda *_: None)(reader, variant)
    for key in family.in_4_57.get("ignored_keys", ()):
        if reader.config.get(key):
            reader.warn(f"{family.name}: transformers 4.57 ignores {key}, 5.23 follows it")
    if variant == "longrope" and "su" in (block.values.get("type"), block.values.get("rope_type")):
        reader.warn(
            '"su" means longrope; 5.23 needs original_max_position_embeddings in the dictionary'
        )
    old = family.in_4_57.get("defaults", {}).get("rope_theta")
    new = families()[family.name].defaults.get("rope_theta", 10_000.0) if old is not None else None
    if old != new and reader.provenance.get("rope_theta") == CLASS_DEFAULT:
        reader.warn(f"{family.name}: rope_theta is the class's, {old} in 4.57 and {new} in 5.23")


def _build(
    reader: ConfigReader, fields: Fields, arithmetic: Arithmetic, prefix: str = ""
) -> RopeConfig:
    is_hf = arithmetic == "hf"
    of_family = fields.pop("arithmetic", "hf")
    fields |= {
        "arithmetic": of_family if is_hf else arithmetic,
        "rounding": reader.family.rounding if is_hf else "once",
    }
    head_dim = fields.pop("head_dim")
    try:
        return RopeConfig.of(head_dim, **fields)
    except ConfigError as wrong:
        if wrong.parameter in OF_HEAD_DIM:
            expected = f"such that {wrong.parameter} is {wrong.expected}, not {wrong.got}"
            raise ConfigError(reader.key_name("head_dim"), expected, head_dim) from None
        name = f"{prefix}{wrong.parameter}" if wrong.parameter in IN_DICTIONARY else wrong.parameter
        name = reader.key_name("rope_theta") if name == "theta" else name
        raise ConfigError(name, wrong.expected, wrong.got) from None
