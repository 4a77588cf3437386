"""The variant of a block and its parameters, and where each came from."""

from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError
from rope_core.frequencies import VARIANTS
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, GIVEN, Reader, brief, is_number
from rope_core.hf.rope_parameters import OTHER_KEYS, Block
from rope_core.registry import Parameter

SPELLINGS = {"su": "longrope", "mrope": "default", "axial": "default", "xdrope": "dynamic"}
"""Names of rope types that mean another."""

OURS = frozenset(("ntk", "ntk_alpha", "xpos"))
"""Variants that no rope_type of transformers names."""

ORIGINAL = "original_max_position_embeddings"

MAX_TOLD = 16
"""Ignored keys of a block that are told one by one."""


def rope_type(reader: Reader, block: Block) -> str:
    """Return the name of the variant.

    Raises:
        ConfigError: it is unknown, or named twice and differently.
    """
    new, old = block.values.get("rope_type"), block.values.get("type")
    spellings = {**SPELLINGS, **reader.family.aliases}
    for key, value in (("rope_type", new), ("type", old)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{block.name}.{key}", "a text", brief(value))
    if new and old and spellings.get(new, new) != spellings.get(old, old):
        raise ConfigError(f"{block.name}.type", f"{new!r} as rope_type, or absent", repr(old))
    named = new or old
    from_file = {"rope_type", "type"} & block.given
    reader.provenance["rope_type"] = GIVEN if named and from_file else CLASS_DEFAULT
    found = spellings.get(named or "default", named or "default")
    if found == "dynamic" and reader.family.alpha and block.values.get("alpha"):
        return "dynamic" if reader.legacy else "ntk_alpha"  # 4.57 forgets alpha in long calls
    if found not in VARIANTS or found in OURS:
        known = sorted({*VARIANTS, *SPELLINGS} - OURS)
        raise ConfigError(f"{block.name}.rope_type", f"one of {known}", brief(named))
    if named == "su" and ORIGINAL not in block.values and not reader.legacy:
        expected = 'given in the block for type "su" (transformers 4.57 reads it outside)'
        raise ConfigError(f"{block.name}.{ORIGINAL}", expected, "none")
    return found


def theta(reader: Reader, block: Block) -> float:
    """Return the base.

    Raises:
        ConfigError: it is no number, or of no size that makes sense.
    """
    name, source = f"{block.name}.rope_theta", GIVEN
    value = _layer_theta(reader)
    if value is None:
        value = block.values.get("rope_theta")
        if value is not None and "rope_theta" not in block.given:
            source = CLASS_DEFAULT
    if value is None:
        value, name = reader.given("rope_theta"), reader.name("rope_theta")
    if value is None:
        value, source = reader.family.defaults.get("rope_theta", 10_000.0), CLASS_DEFAULT
    if not is_number(value) or value < 1e-6:
        raise ConfigError(name, "a number in [1e-6, 1e12]", brief(value))
    reader.provenance["rope_theta"] = source
    return float(value)


def _layer_theta(reader: Reader) -> Any:
    """Return the base that the file has for each layer, None where it has none."""
    if not (reader.family.nope or "").startswith("layer_rope_theta"):
        return None
    bases = reader.numbers("layer_rope_theta")
    if bases is None:
        return None
    if reader.layer is not None:
        return bases[reader.layer]
    if len(distinct := {base for base in bases if base}) == 1:
        return distinct.pop()
    raise ConfigError("layer", "given, for layer_rope_theta differs by it", "none")


def share(reader: Reader, block: Block, head_dim: int, kind: str) -> float | None:
    """Return the share of a head that rotates, None where nothing says any.

    Raises:
        ConfigError: it is no number, or leaves nothing to rotate.
    """
    key, name = "partial_rotary_factor", f"{block.name}.partial_rotary_factor"
    value, source = block.values.get(key), GIVEN
    if value is not None and key not in block.given:
        source = CLASS_DEFAULT
    if value is None:
        value, name = reader.given(key), reader.name(key)
    absolute = reader.family.absolute
    if value is None and absolute and reader.get(absolute) is not None:
        value, source = reader.number(absolute) / head_dim, DERIVED
    if value is None:
        value, source = reader.family.defaults.get(key), CLASS_DEFAULT
    if value is None and kind == "default":
        value = reader.family.default_share
    if value is None:
        return None
    most = 1 if kind == "proportional" else 4  # EfficientLoFTR has 4
    if not is_number(value) or not 0 <= value <= most:
        raise ConfigError(name, f"a number in [0, {most}]", brief(value))
    reader.provenance[key] = source
    return float(value)


def variant(reader: Reader, block: Block, kind: str) -> dict[str, Any]:
    """Return the variant's parameters out of the block, and what fills them in."""
    known = VARIANTS[kind].parameters
    values = {key: block.values[key] for key in known if block.values.get(key) is not None}
    values.pop("length", None)
    if kind == "dynamic" and reader.family.alpha and values.get("alpha"):
        values.setdefault("factor", 1.0)
    else:
        values.pop("alpha", None)
    foreign = sorted(str(key) for key in block.values if key not in known and key not in OTHER_KEYS)
    for key in foreign[:MAX_TOLD]:
        reader.warn(f"{block.name}.{key[:64]} is ignored: {kind} has no such parameter")
    if len(foreign) > MAX_TOLD:
        reader.warn(f"{block.name} has {len(foreign) - MAX_TOLD} more keys that are ignored")
    for key, value in values.items():
        _check(f"{block.name}.{key}", value, known[key])
        reader.provenance[key] = GIVEN if key in block.given else CLASS_DEFAULT
    for key in ("beta_fast", "beta_slow"):
        if is_number(values.get(key)) and values[key] < 0:
            raise ConfigError(f"{block.name}.{key}", "0 or more", values[key])
    if ORIGINAL in known:
        values[ORIGINAL] = _original(reader, block, kind)
    if kind == "ntk_alpha":
        values = {"alpha": block.values["alpha"]}
        _check(f"{block.name}.alpha", values["alpha"], known["alpha"])
        reader.provenance["alpha"] = GIVEN
    if "max_position_embeddings" in known:
        values["max_position_embeddings"] = reader.size("max_position_embeddings")
    if kind == "yarn" and block.nested and values.get("truncate") is False:
        values["truncate"] = bool(block.outer.get("truncate", True))
        if values["truncate"]:
            reader.warn(f"{block.name}.truncate is ignored by transformers 5.23 in a nested block")
    if reader.family.phimoe and kind not in ("default", "longrope"):
        raise ConfigError(f"{block.name}.rope_type", "default or longrope for phimoe", kind)
    if kind == "longrope":
        _longrope(reader, block, values)
    return values


def check_numbers(name: str, value: Any) -> None:
    """Refuse what is no plain value, and numbers that are not finite or of no sensible size.

    Raises:
        ConfigError: `value` is one of these, or a list with one.
    """
    for item in value if isinstance(value, list | tuple) else (value,):
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if isinstance(item, list | tuple | Mapping) or (number and not is_number(item)):
            raise ConfigError(name, "a number of at most 1e12, or a list of such", brief(value))


def _check(name: str, value: Any, parameter: Parameter) -> None:
    """Refuse what is of another type than a parameter of a variant."""
    check_numbers(name, value)
    try:
        parameter.check(value)
    except ConfigError as wrong:
        raise ConfigError(name, wrong.expected, brief(value)) from None


def complete(
    kind: str, theta: float, given: Mapping[str, Any], gain: float, provenance: dict[str, str]
) -> dict[str, Any]:
    """Return all of a variant's parameters in transformers 5's spelling."""
    values = {"rope_type": "dynamic" if kind == "ntk_alpha" else kind, "rope_theta": theta}
    longest = given.get("max_position_embeddings")
    for name, parameter in VARIANTS[kind].parameters.items():
        value = given.get(name, parameter.default)
        if value is None and name == "factor":
            value = longest / given[ORIGINAL] if longest else None
        elif value is None and name in ("beta_fast", "beta_slow"):
            value = {"beta_fast": 32.0, "beta_slow": 1.0}[name]
        elif value is None and name == "attention_factor" and given.get("short_mscale") is None:
            value = gain
        if value is None or name in ("length", "max_position_embeddings"):
            continue
        if name not in provenance:
            fixed = name in ("beta_fast", "beta_slow") or value == parameter.default
            provenance[name] = CLASS_DEFAULT if fixed else DERIVED
        values[name] = [*value] if isinstance(value, tuple) else value
    return values


def _original(reader: Reader, block: Block, kind: str) -> Any:
    """Return the trained length, wherever this version of transformers looks for it."""
    inside = block.values.get(ORIGINAL)
    outside = None if block.nested else reader.get(ORIGINAL)
    if reader.family.phimoe:  # its class copies the block's to the config, or forgets the config's
        outside = outside if inside is None and reader.legacy else None
    elif reader.legacy:
        inside, outside = (None, outside) if kind == "longrope" else (inside, None)
    if outside is not None:
        _check(ORIGINAL, outside, VARIANTS[kind].parameters[ORIGINAL])
        if inside is not None and inside != outside:
            text = f"is {brief(outside)} outside {block.name} and {brief(inside)} in it: the former"
            reader.warn(f"{ORIGINAL} {text}")
        return outside
    if inside is not None:
        reader.provenance[ORIGINAL] = GIVEN if ORIGINAL in block.given else CLASS_DEFAULT
        return inside
    reader.provenance[ORIGINAL] = DERIVED
    return reader.size("max_position_embeddings")


def _longrope(reader: Reader, block: Block, values: dict[str, Any]) -> None:
    """What versions of transformers do to LongRoPE."""
    outside = reader.given(ORIGINAL)
    if values.get("factor") is not None and outside is not None and not block.nested:
        if reader.legacy:
            del values["factor"]
        reader.warn("longrope: 5.23 takes the explicit factor, 4.57 max / original length")
    if not reader.family.phimoe:
        values.pop("short_mscale", None)
        values.pop("long_mscale", None)
        return
    for key in ("short_mscale", "long_mscale"):
        if key not in values:
            raise ConfigError(f"{block.name}.{key}", "given for phimoe", "none")
    if not reader.legacy:
        values["long_factor"] = values.get("short_factor")
    reader.warn("phimoe: 5.23 never uses long_factor, 4.57 does beyond the trained length")
