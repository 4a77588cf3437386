"""The variant, its parameters, the base and the rotated share, and where each comes from."""

import math
from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.frequencies import VARIANTS
from rope_core.hf import nope
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, GIVEN, ConfigReader, is_number
from rope_core.hf.rope_parameters import COMMON_KEYS, RopeParameters
from rope_core.own_frequencies import LISTS

SPELLINGS = {"su": "longrope", "mrope": "default", "axial": "default", "xdrope": "dynamic"}
"""Other names of rope types."""

NOT_IN_TRANSFORMERS = frozenset(("ntk", "ntk_alpha", "xpos", *LISTS))
"""Variants without a rope_type in transformers."""

NOT_FROM_FILE = frozenset(("length", "alpha"))
"""Parameters of variants that are not read here; HunYuan's rule reads `alpha`."""

ORIGINAL = "original_max_position_embeddings"

BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
"""YaRN's defaults."""

USUAL: dict[str, tuple[float, ...]] = {"factor": (1,), "mscale": (0, 1), "mscale_all_dim": (0, 1)}
USUAL |= {key: (value,) for key, value in BETAS.items()}
"""Values of parameters that change nothing, and that files have without the variant."""

MAX_LIST = 8192
"""Most numbers in a list of a variant: more than any head has pairs."""

MAX_WARNED = 16
"""Largest number of ignored parameters with a warning each."""


def rope_type(reader: ConfigReader, block: RopeParameters) -> str:
    """Return the name of the variant.

    Raises:
        ConfigError: the name is unknown, or `rope_type` and `type` are different variants.
    """
    new, old = block.values.get("rope_type"), block.values.get("type")
    spellings = {**SPELLINGS, **reader.family.rope_type_aliases}
    for key, value in (("rope_type", new), ("type", old)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{block.name}.{key}", "a text", brief(value))
    if new and old and spellings.get(new, new) != spellings.get(old, old):
        raise ConfigError(f"{block.name}.type", f"{new!r} as rope_type, or absent", repr(old))
    name = new or old
    from_file = name and {"rope_type", "type"} & block.from_file
    path = block.path("rope_type" if new else "type")
    reader.record("rope_type", *((GIVEN, path) if from_file else (CLASS_DEFAULT, "")))
    variant = spellings.get(name or "default", name or "default")
    if variant not in VARIANTS or variant in NOT_IN_TRANSFORMERS:
        names = sorted({*VARIANTS, *SPELLINGS} - NOT_IN_TRANSFORMERS)
        raise ConfigError(f"{block.name}.rope_type", f"one of {names}", brief(name))
    if name == "su" and ORIGINAL not in block.values and not reader.is_4_57:
        expected = 'given in the dictionary for type "su" (transformers 4.57 reads it outside)'
        raise ConfigError(f"{block.name}.{ORIGINAL}", expected, "none")
    adjusted: str = reader.family.step("rope_type", lambda *args: args[-1])(reader, block, variant)
    return adjusted


def theta(reader: ConfigReader, block: RopeParameters) -> float:
    """Return the base.

    Raises:
        ConfigError: the base is not a number of a plausible size.
    """
    value, name, source = _value(reader, block, "rope_theta", _layer_theta(reader))
    path = name if source == GIVEN else ""
    if value is None:
        value = reader.family.defaults.get("rope_theta", 10_000.0)
        source, path = CLASS_DEFAULT, ""
    if not is_number(value) or value < 1e-6:
        raise ConfigError(name, "a number in [1e-6, 1e12]", brief(value))
    reader.record("rope_theta", source, path)
    return float(value)


def _value(
    reader: ConfigReader, block: RopeParameters, key: str, of_layer: Any = None
) -> tuple[Any, str, str]:
    """Return a value of the layer, the dictionary or the config, its key and where it is from."""
    if of_layer is not None:
        index = "" if reader.layer is None else f"[{reader.layer}]"
        return of_layer, f"layer_rope_theta{index}", GIVEN
    if block.values.get(key) is not None:
        source = GIVEN if key in block.from_file else CLASS_DEFAULT
        return block.values[key], block.path(key), source
    return reader.from_file(key), reader.key_name(key), GIVEN


def _layer_theta(reader: ConfigReader) -> Any:
    """Return the layer's base from a list with one for each layer, None without such a list."""
    if reader.family.nope not in nope.BY_LAYER_ROPE_THETA:
        return None
    bases = reader.per_layer("layer_rope_theta")
    if bases is None:
        return None
    if reader.layer is not None:
        return bases[reader.layer]
    if len(distinct := {base for base in bases if base}) == 1:
        return distinct.pop()
    raise ConfigError("layer", "given, because layer_rope_theta differs by layer", "none")


def partial_rotary_factor(
    reader: ConfigReader, block: RopeParameters, head_dim: int, variant: str
) -> float | None:
    """Return the share of a head that rotates, None if neither file nor class has one.

    Raises:
        ConfigError: the share is not a number, or out of range.
    """
    key = "partial_rotary_factor"
    value, name, source = _value(reader, block, key)
    if value is None:
        rule = reader.family.step("partial_rotary_factor", _class_factor)
        value, source = rule(reader, head_dim, variant) or (None, source)
        name = reader.why.get("rotary_dim") or reader.why.get("qk_rope_head_dim") or name
    if value is None:
        return None
    most = 1 if variant == "proportional" else 4  # EfficientLoFTR has 4
    if not is_number(value) or not 0 <= value <= most:
        raise ConfigError(name, f"a number in [0, {most}]", brief(value))
    reader.record(key, source, "" if source == CLASS_DEFAULT else name)
    return float(value)


def _class_factor(reader: ConfigReader, _: int, __: str) -> tuple[Any, str] | None:
    value = reader.family.defaults.get("partial_rotary_factor")
    return None if value is None else (value, CLASS_DEFAULT)


def parameters(reader: ConfigReader, block: RopeParameters, variant: str) -> dict[str, Any]:
    """Return the parameters of the variant in the dictionary, and the lengths that it needs.

    Raises:
        ConfigError: a parameter is of another type, or out of range.
    """
    values = named_parameters(reader, block, variant)
    if ORIGINAL in VARIANTS[variant].parameters:
        inside = block.values.get(ORIGINAL)
        outside = None if block.nested else reader.get(ORIGINAL)
        if reader.is_4_57:
            inside, outside = (None, outside) if variant == "longrope" else (inside, None)
        values[ORIGINAL] = original_length(reader, block, inside, outside)
    if "max_position_embeddings" in VARIANTS[variant].parameters:
        values["max_position_embeddings"] = reader.size("max_position_embeddings")
    if variant == "yarn" and block.nested and values.get("truncate") is False:
        values["truncate"] = bool(block.outer.get("truncate", True))
        if values["truncate"]:
            why = "transformers 5.23 does not read it in a nested dictionary"
            reader.ignore(f"{block.name}.truncate", why)
    if variant == "yarn":
        _record_unused_mscale(reader, block, values)
    if variant == "longrope":
        choose_longrope_factor(reader, block, values)
        values = {k: v for k, v in values.items() if k not in ("short_mscale", "long_mscale")}
    return values


def _record_unused_mscale(
    reader: ConfigReader, block: RopeParameters, values: Mapping[str, Any]
) -> None:
    """Record which of YaRN's two mscale have no effect: they do as a pair, without a gain.

    The softmax scale of MLA families follows `mscale_all_dim` in any case.
    """
    is_pair = values.get("mscale") and values.get("mscale_all_dim")
    if is_pair and values.get("attention_factor") is None:
        return
    reader.keys_without_effect.add(f"{block.name}.mscale")
    if reader.family.softmax_scale is None:
        reader.keys_without_effect.add(f"{block.name}.mscale_all_dim")


def named_parameters(reader: ConfigReader, block: RopeParameters, variant: str) -> dict[str, Any]:
    """Return the parameters of the variant that the dictionary has; warn about its other keys."""
    expected = VARIANTS[variant].parameters
    unknown = {str(key) for key in block.values if key not in expected and key not in COMMON_KEYS}
    other = sorted(unknown)
    for key in other[:MAX_WARNED]:
        if block.values.get(key) in USUAL.get(key, ()):
            continue
        reader.ignore(f"{block.name}.{key[:64]}", f"{variant} has no such parameter")
    if len(other) > MAX_WARNED:
        reader.warn(f"{block.name} has {len(other) - MAX_WARNED} more keys that are ignored")
    values = {
        key: named_parameter(reader, block, variant, key)
        for key in expected
        if key not in NOT_FROM_FILE and block.values.get(key) is not None
    }
    for key in BETAS:
        if is_number(values.get(key)) and values[key] < 0:
            raise ConfigError(f"{block.name}.{key}", "0 or more", values[key])
    return values


def named_parameter(reader: ConfigReader, block: RopeParameters, variant: str, key: str) -> Any:
    """Return one parameter of the variant from the dictionary."""
    value = block.values[key]
    check_parameter(f"{block.name}.{key}", value, variant, key)
    _record_parameter(reader, block, key)
    return value


def _record_parameter(reader: ConfigReader, block: RopeParameters, key: str) -> None:
    is_given = key in block.from_file
    path = block.path(key) if is_given or key in block.keys else ""
    reader.record(key, GIVEN if is_given else CLASS_DEFAULT, path)


def original_length(reader: ConfigReader, block: RopeParameters, inside: Any, outside: Any) -> Any:
    """Return the trained length: `outside`, else `inside`, else max_position_embeddings."""
    if outside is not None:
        check_parameter(ORIGINAL, outside, "yarn", ORIGINAL)
        if inside is not None and inside != outside:
            text = f"is {brief(outside)} outside {block.name} and {brief(inside)} in it: the former"
            reader.warn(f"{ORIGINAL} {text}")
        return outside
    if inside is not None:
        _record_parameter(reader, block, ORIGINAL)
        return inside
    reader.record(ORIGINAL, DERIVED, reader.key_name("max_position_embeddings"))
    return reader.size("max_position_embeddings")


def choose_longrope_factor(
    reader: ConfigReader, block: RopeParameters, values: dict[str, Any]
) -> None:
    """Remove LongRoPE's `factor` where transformers 4.57 takes the ratio of lengths instead."""
    outside = reader.from_file(ORIGINAL)
    if values.get("factor") is not None and outside is not None and not block.nested:
        if reader.is_4_57:
            del values["factor"]
        reader.warn("longrope: 5.23 takes the explicit factor, 4.57 max / original length")


def warn_of_ranges(reader: ConfigReader, variant: str, values: Mapping[str, Any]) -> None:
    """Warn about numbers that are valid but implausible."""
    longest = reader.get("max_position_embeddings")
    numbers = {key: value for key, value in values.items() if is_number(value)}
    low, high = numbers.get("low_freq_factor", 0), numbers.get("high_freq_factor", math.inf)
    original = numbers.get(ORIGINAL, 0)
    if variant == "llama3" and high <= low:
        reader.warn(f"high_freq_factor {high} is not above low_freq_factor {low}")
    if variant == "llama3" and is_number(longest) and original >= longest:
        reader.warn(f"{ORIGINAL} {original} is not below {longest}")
    if variant == "linear" and numbers.get("factor", 1) < 1:
        reader.warn("factor is below 1: positions are stretched")


def check_numbers(name: str, value: Any) -> None:
    """Check a plain value, or a list of plain values, for numbers of an implausible size.

    Raises:
        ConfigError: a number is too large or not finite, or the value is nested or too long.
    """
    if isinstance(value, list | tuple) and len(value) > MAX_LIST:
        raise ConfigError(name, f"a list of at most {MAX_LIST} numbers", len(value))
    for item in value if isinstance(value, list | tuple) else (value,):
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if isinstance(item, list | tuple | Mapping) or (number and not is_number(item)):
            raise ConfigError(name, "a number of at most 1e12, or a list of such", brief(value))


def check_parameter(name: str, value: Any, variant: str, key: str) -> None:
    """Check that `value` is of the type of a variant's parameter.

    Raises:
        ConfigError: the value is of another type.
    """
    check_numbers(name, value)
    try:
        VARIANTS[variant].parameters[key].check(value)
    except ConfigError as wrong:
        raise ConfigError(name, wrong.expected, brief(value)) from None


def complete(
    reader: ConfigReader,
    variant: str,
    theta: float,
    values: Mapping[str, Any],
    attention_factor: float,
) -> dict[str, Any]:
    """Return all of a variant's parameters in transformers 5's spelling."""
    complete = {"rope_type": "dynamic" if variant == "ntk_alpha" else variant, "rope_theta": theta}
    fallbacks: dict[str, Any] = dict(BETAS)
    if longest := values.get("max_position_embeddings"):
        fallbacks["factor"] = longest / values.get(ORIGINAL, longest)
    if values.get("short_mscale") is None:
        fallbacks["attention_factor"] = attention_factor
    for name, parameter in VARIANTS[variant].parameters.items():
        value = values.get(name, parameter.default)
        value = fallbacks.get(name) if value is None else value
        if value is None or name in ("length", "max_position_embeddings"):
            continue
        if name not in reader.provenance:
            if name in BETAS or value == parameter.default:
                reader.record(name, CLASS_DEFAULT, f"default of {variant}")
            else:
                reader.record(name, DERIVED, _formula(variant, name, values))
        complete[name] = [*value] if isinstance(value, tuple) else value
    return complete


def _formula(variant: str, name: str, values: Mapping[str, Any]) -> str:
    """Return how a parameter follows from others that the config has."""
    if name == "factor":
        return f"max_position_embeddings / {ORIGINAL}"
    if name != "attention_factor":
        return "other parameters"
    if variant == "longrope":
        factor = "factor" if values.get("factor") is not None else f"max / {ORIGINAL}"
        return f"sqrt(1 + ln({factor}) / ln({ORIGINAL})), 1 for a factor up to 1"
    if values.get("mscale") and values.get("mscale_all_dim"):
        return "(0.1 * mscale * ln(factor) + 1) / (0.1 * mscale_all_dim * ln(factor) + 1)"
    return "0.1 * ln(factor) + 1"
