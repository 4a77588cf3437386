"""A message: named tensors and plain parameters, whatever bytes carry them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from torch import Tensor

Buffer = bytes | bytearray | memoryview

MAX_TENSORS = 16
"""Most tensors of a message."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a message: plain values, which nobody changes.

    Two are equal, and have the same hash, if their keys are equal.
    """

    values: Mapping[str, Any] = field(compare=False)

    key: bytes
    """The values as JSON text: a key for caches, and what a codec may write. Nothing parses it."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Parameters":
        """Return the parameters of an answer; mappings within `values` become JSON objects."""
        return cls(values, json.dumps(values, default=dict).encode())


class NonFinite(float):
    """`NaN`, `Infinity` or `-Infinity` of a config, which `orjson` must not write as null."""

    __slots__ = ()


def params_key(values: Mapping[str, Any]) -> bytes:
    """Return the key of a request's parameters.

    Raises:
        orjson.JSONEncodeError: the values are nested too deep.
    """
    return orjson.dumps(values, default=_write_non_finite)


_FRAGMENTS = {
    repr(value): orjson.Fragment(json.dumps(value)) for value in (math.nan, math.inf, -math.inf)
}


def _write_non_finite(value: Any) -> orjson.Fragment:
    if isinstance(value, NonFinite):
        return _FRAGMENTS[repr(value)]
    raise TypeError(f"not a value of JSON: {type(value).__name__}")


NO_PARAMETERS = Parameters({}, b"{}")


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer: tensors and parameters by name."""

    tensors: Mapping[str, Tensor]
    params: Parameters = NO_PARAMETERS


class Decoded(NamedTuple):
    """A request body that was decoded."""

    message: Message

    as_base64: bool = False
    """Whether a JSON answer carries tensors in base64, as the request did, not as numbers."""
