"""Calls with other fields, for the functions that make mistakes of right calls."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from rope_core.config import RopeConfig
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistake import Wrong
from rope_core.errors import ConfigError


def with_rope(call: RotaryCall, **fields: Any) -> RotaryCall:
    """Return the call with other fields of its rope.

    Raises:
        ConfigError: no rope has these fields.
    """
    return replace(call, rope=_changed(call.rope, tuple(fields.items())))


@lru_cache(maxsize=4096)
def _changed(rope: RopeConfig, fields: tuple[tuple[str, Any], ...]) -> RopeConfig:
    """Return a rope with other fields. Searches make the same ropes again and again."""
    return replace(rope, **dict(fields))


def with_parameters(call: RotaryCall, **values: Any) -> RotaryCall:
    """Return the call with other parameters of the variant of its rope.

    Raises:
        ConfigError: the variant has no such parameter, or no such value of it.
    """
    return with_rope(call, parameters=tuple((dict(call.rope.parameters) | values).items()))


def parameter(call: RotaryCall, name: str) -> Any:
    """Return a parameter of the variant, None if it has none."""
    return dict(call.rope.parameters).get(name)


def each(
    name: str, values: Iterable[Any], call: RotaryCall, change: Callable[[Any], RotaryCall]
) -> Iterator[Wrong]:
    """Return the calls with each value that a call can have, if they differ from `call`."""
    for value in values:
        with suppress(ConfigError):
            changed = change(value)
            if differ(changed, call):
                yield {name: value}, changed


def differ(one: RotaryCall, other: RotaryCall) -> bool:
    """Return whether two calls may rotate differently."""
    if one.rope != other.rope and gain(one) == gain(other):
        a, b = one.rope.frequency_table, other.rope.frequency_table
        same_axes = torch.equal(_axis(a), _axis(b))
        if (
            same_axes
            and a.inv_freq.shape == b.inv_freq.shape
            and torch.equal(a.inv_freq, b.inv_freq)
        ):
            names = ("layout", "trailing", "negative", "head_dim", "rotary_dim", "blocks")
            return any(getattr(one.rope, name) != getattr(other.rope, name) for name in names)
    return True


def gain(call: RotaryCall) -> float:
    """Return the factor of cosine and sine."""
    return call.rope.attention_scaling if call.gain is None else call.gain


def _axis(table: Any) -> torch.Tensor:
    return torch.zeros(len(table.inv_freq), dtype=torch.int64) if table.axis is None else table.axis


def powers_of_two(first: int, last: int) -> tuple[float, ...]:
    """Return 2 ** first ... 2 ** last."""
    return tuple(2.0**power for power in range(first, last + 1))
