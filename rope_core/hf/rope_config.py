"""From what a config says to a `RopeConfig`, and to the parameters in transformers 5's spelling."""

from typing import Any

from rope_core.config import Arithmetic, RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import head_dim as width
from rope_core.hf import variant
from rope_core.hf.compat import warn_of_ranges, warn_of_versions
from rope_core.hf.config_reader import GIVEN, Reader, brief
from rope_core.hf.custom_rotations import SPECIAL
from rope_core.hf.families import UNKNOWN
from rope_core.hf.rope_parameters import Block

Built = tuple[RopeConfig, dict[str, Any]]

OF_WIDTH = frozenset(("rotary_dim", "axes_dim", "axes_order", "blocks", "num_spatial_pairs"))
"""Fields of a RopeConfig that follow from the width of a head."""

IN_BLOCK = frozenset(
    (
        *("factor", "short_factor", "long_factor", "alpha", "attention_factor", "mscale"),
        *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate"),
        *("mrope_section", "xdrope_section", variant.ORIGINAL, "short_mscale", "long_mscale"),
    )
)
"""Parameters that are in the block if they are anywhere."""


def special(reader: Reader, head_dim: int | None, arithmetic: Arithmetic) -> Built:
    """Return the rotation of a family whose config has keys of its own."""
    family = reader.family
    fields = SPECIAL[family.special or ""](reader)
    fields.setdefault("head_dim", head_dim or fields.get("rotary_dim"))
    fields.setdefault("layout", family.layout)
    fields.setdefault("blocks", family.blocks)
    rope = _build(reader, dict(fields), arithmetic)
    return rope, {"rope_type": rope.rope_type, "rope_theta": rope.theta, **dict(rope.parameters)}


def standard(reader: Reader, block: Block, head_dim: int | None, arithmetic: Arithmetic) -> Built:
    """Return the rotation that a block of rope parameters describes."""
    family = reader.family
    kind = variant.rope_type(reader, block)
    own_dim = width.head_dim(reader, kind)
    theta = variant.theta(reader, block)
    latent = family.head_dim == width.LATENT  # the width is that of the rotated part itself
    share = None if latent else variant.share(reader, block, own_dim, kind)
    given = variant.variant(reader, block, kind)
    rotated = _rotated(reader, kind, own_dim, share)
    if kind == "proportional" and share is not None:
        given["partial_rotary_factor"] = share
    axes = _axes(reader, block, rotated)
    fields = {
        "head_dim": own_dim,
        "rotary_dim": rotated + rotated % 2,
        "frequency_dim": rotated if rotated % 2 else None,
        "theta": theta,
        "rope_type": kind,
        **_layout(reader),
        **axes,
        **_within_head(reader, own_dim, head_dim if latent else None),
    }
    if share is not None and (rotated < 1 or rotated > own_dim):
        expected = f"such that 1 to {own_dim} channels of a head rotate"
        raise ConfigError(reader.name("partial_rotary_factor"), expected, share)
    warn_of_ranges(reader, kind, given)
    warn_of_versions(reader, block, kind)
    rope = _build(reader, {**fields, **given}, arithmetic, f"{block.name}.")
    gain = rope.attention_scaling
    complete = variant.complete(kind, theta, given, gain, reader.provenance)
    if share is not None:
        complete["partial_rotary_factor"] = share
    for key in ("mrope_section", "xdrope_section"):
        if key in axes:
            complete["mrope_section"] = [*axes[key]]
    if axes.get("axes") == "mrope_interleaved":
        complete["mrope_interleaved"] = True
    if "llama_4_scaling_beta" in block.values:
        complete["llama_4_scaling_beta"] = block.values["llama_4_scaling_beta"]
    return rope, complete


def _rotated(reader: Reader, kind: str, head_dim: int, share: float | None) -> int:
    """Return how many channels of a head have frequencies."""
    family = reader.family
    if kind == "proportional" or share is None:
        return head_dim
    if kind == "default" and family.whole_head_by_default and not reader.legacy:
        if share != 1.0:
            text = f"{family.name}'s default frequencies are for the whole head"
            reader.warn(f"{reader.name('partial_rotary_factor')} {share} is ignored: {text}")
        return head_dim
    return int(head_dim * share)


def _within_head(reader: Reader, own_dim: int, head_dim: int | None) -> dict[str, Any]:
    """Return the fields of an MLA head that is given with its unrotated part."""
    if reader.family.first_head:
        reader.warn(f"{reader.family.name} rotates the first head alone: send no other")
    if reader.family.by_head:
        reader.warn(f"{reader.family.name} rotates by the place of the head: send heads as tokens")
    if head_dim in (None, own_dim) or reader.get("qk_nope_head_dim") is None:
        return {}
    whole = own_dim + reader.size("qk_nope_head_dim")
    return {"head_dim": whole, "trailing": True} if head_dim == whole else {}


def _build(
    reader: Reader, fields: dict[str, Any], arithmetic: Arithmetic, prefix: str = ""
) -> RopeConfig:
    family = reader.family
    own = "float64" if family.angles == "float64" else fields.pop("arithmetic", "hf")
    fields |= {
        "arithmetic": own if arithmetic == "hf" else arithmetic,
        "rounding": family.rounding if arithmetic == "hf" else "once",
        "learned": fields.get("learned") or family.learned,
    }
    head_dim = fields.pop("head_dim")
    try:
        return RopeConfig.of(head_dim, **fields)
    except ConfigError as wrong:
        if wrong.parameter in OF_WIDTH:
            expected = f"such that {wrong.parameter} is {wrong.expected}, not {wrong.got}"
            raise ConfigError(reader.name("head_dim"), expected, head_dim) from None
        name = f"{prefix}{wrong.parameter}" if wrong.parameter in IN_BLOCK else wrong.parameter
        name = reader.name("rope_theta") if name == "theta" else name
        raise ConfigError(name, wrong.expected, wrong.got) from None


def _layout(reader: Reader) -> dict[str, Any]:
    family = reader.family
    layout = family.layout
    if layout == "interleaved_to_half" and reader.get("rope_interleave") is False:
        layout = "half"
    return {
        "layout": layout,
        "negative": family.negative,
        "trailing": family.trailing,
        "blocks": family.blocks,
        "values": "and_back" if family.trailing else "kept",
    }


def _axes(reader: Reader, block: Block, rotated: int) -> dict[str, Any]:
    """Return the fields of the scheme of several axes."""
    family, values = reader.family, block.values
    axes = family.axes
    sections = values.get("mrope_section") or values.get("xdrope_section")
    if axes is None and sections and family is UNKNOWN:
        axes = "mrope_interleaved" if values.get("mrope_interleaved") else "mrope"
    if axes is None:
        if sections:
            reader.warn(f"{block.name}.mrope_section is ignored: {family.name} has one axis")
        return {}
    if axes in ("mrope", "mrope_interleaved", "mrope_hw_t", "xdrope"):
        reader.provenance["mrope_section"] = GIVEN
        sections = sections or reader.get("mrope_section")
        if not isinstance(sections, list | tuple):
            raise ConfigError(f"{block.name}.mrope_section", "a list of numbers", brief(sections))
        variant.check_numbers(f"{block.name}.mrope_section", sections)
        key = "xdrope_section" if axes == "xdrope" else "mrope_section"
        return {"axes": axes, key: tuple(sections)}
    fields: dict[str, Any] = {"axes": axes}
    if axes == "axial":
        count = family.num_axes or 2
        each = 2 * (rotated // count // 2) if family.thirds else rotated // count
        fields["axes_dim"] = (each,) * count
        fields |= {"rotary_dim": each * count} if family.thirds else {}
    return fields | ({"axes_order": family.axes_order} if family.axes_order else {})
