"""How many positions a model was trained on, and how many it is allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.config import RopeConfig
from rope_core.hf.config_reader import DICTIONARIES, ConfigReader, is_number

ORIGINAL, MAX = "original_max_position_embeddings", "max_position_embeddings"

OTHER_NAMES = ("max_seq_len", "max_sequence_length", "seq_length", "n_positions", "n_ctx")
"""Keys of the allowed length in configs of families without `max_position_embeddings`."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of positions that a config has, None where it has none."""

    trained: int | None
    """Length of the training that the frequencies are scaled from; `allowed` if none is named."""

    allowed: int | None
    """max_position_embeddings, or the family's own key."""


def lengths(reader: ConfigReader, rope: RopeConfig | None) -> Lengths:
    """Return the lengths of a config. No key counts as read: they do not change the rotation."""
    allowed = _first(reader.config, reader.key_name(MAX), *OTHER_NAMES)
    if allowed is None:
        allowed = _first(reader.family.defaults, MAX)
    of_variant = lengths_of_rope(rope).trained
    dictionaries = [reader.config.get(name) for name in DICTIONARIES]
    stated = (_first(values, ORIGINAL) for values in (reader.config, *dictionaries))
    trained = next((length for length in (of_variant, *stated) if length is not None), allowed)
    return Lengths(trained, allowed)


def lengths_of_rope(rope: RopeConfig | None) -> Lengths:
    """Return the lengths among the parameters of a variant."""
    parameters = {} if rope is None else dict(rope.parameters)
    trained, allowed = _first(parameters, ORIGINAL), _first(parameters, MAX)
    return Lengths(allowed if trained is None else trained, allowed)


def _first(values: object, *names: str) -> int | None:
    """Return the first whole number above 0 under one of `names`."""
    if not isinstance(values, Mapping):
        return None
    for name in names:
        value: Any = values.get(name)
        if is_number(value) and value >= 1 and value == int(value):
            return int(value)
    return None
