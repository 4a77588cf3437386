"""What a caller should know of a config: versions differ on it, or its numbers are odd."""

import math
from collections.abc import Mapping
from typing import Any

from rope_core.hf.config_reader import CLASS_DEFAULT, Reader, is_number
from rope_core.hf.families import families
from rope_core.hf.rope_parameters import Block


def warn_of_versions(reader: Reader, block: Block, kind: str) -> None:
    """Say where transformers 4.57 and 5.23 make different numbers of one config."""
    family = reader.family
    if family.name == "olmo3" and reader.given("rope_theta") not in (None, 500_000.0):
        reader.warn("olmo3: rope_theta reaches full-attention layers alone (4.57: every layer)")
    if family.name == "olmo2" and kind == "yarn":
        reader.warn("olmo2: transformers 4.57 refuses yarn")
    if family.name == "nemotron" and reader.config.get("rope_scaling"):
        reader.warn("nemotron: transformers 4.57 ignores rope_scaling, 5.23 follows it")
    if family.alpha and block.values.get("alpha") and kind in ("dynamic", "ntk_alpha"):
        reader.warn("hunyuan: beyond max_position_embeddings 4.57 forgets alpha, 5.23 keeps it")
    if kind == "longrope" and "su" in (block.values.get("type"), block.values.get("rope_type")):
        reader.warn('"su" means longrope; 5.23 needs original_max_position_embeddings beside it')
    old = family.legacy.get("defaults", {}).get("rope_theta")
    new = families()[family.name].defaults.get("rope_theta", 10_000.0) if old is not None else None
    if old != new and reader.provenance.get("rope_theta") == CLASS_DEFAULT:
        reader.warn(f"{family.name}: rope_theta is the class's, {old} in 4.57 and {new} in 5.23")


def warn_of_ranges(reader: Reader, kind: str, given: Mapping[str, Any]) -> None:
    """Say where a number is one that makes no sense, though it can be computed with."""
    longest = reader.get("max_position_embeddings")
    numbers = {key: value for key, value in given.items() if is_number(value)}
    low, high = numbers.get("low_freq_factor", 0), numbers.get("high_freq_factor", math.inf)
    original = numbers.get("original_max_position_embeddings", 0)
    if kind == "llama3" and high <= low:
        reader.warn(f"high_freq_factor {high} is not above low_freq_factor {low}")
    if kind == "llama3" and is_number(longest) and original >= longest:
        reader.warn(f"original_max_position_embeddings {original} is not below {longest}")
    if kind == "linear" and numbers.get("factor", 1) < 1:
        reader.warn("factor is below 1: positions are stretched")
