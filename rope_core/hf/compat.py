"""Warnings about configs that transformers 4.57 and 5.23 read differently."""

from rope_core.hf.config_reader import CLASS_DEFAULT, ConfigReader
from rope_core.hf.families import families
from rope_core.hf.rope_parameters import RopeParameters


def warn_of_versions(reader: ConfigReader, block: RopeParameters, variant: str) -> None:
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
