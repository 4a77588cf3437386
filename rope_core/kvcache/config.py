"""What a cache stores: frozen values, valid once they exist."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from rope_core.checks import DTYPES, check_choice, check_in_range
from rope_core.config import MAX_DISTANCE, MAX_HEAD_DIM, AttentionConfig, RopeConfig
from rope_core.errors import ConfigError

KVDtype = Literal["same", "e4m3"]

MAX_HEADS = 4_096
"""More heads than any model has."""

MAX_LAYERS = 1_024
"""More layers than any model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that are stored, rotated and attended to alike.

    Raises:
        ConfigError: a field is out of its range, a window shows later tokens, or the rope depends
            on a length that is not fixed, rotates values or needs learned frequencies.
    """

    layers: tuple[int, ...]
    """Indices of the layers; all groups together have 0 to L - 1, each once."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    rope: RopeConfig | None
    """None: nothing rotates (NoPE)."""

    attention: AttentionConfig
    sinks: tuple[tuple[float, ...], ...] | None = None
    """A score of each head that joins the softmax without a value, `[layers][heads]`."""

    rollback: int = 64
    """Tokens behind a window that are kept, so that a truncation finds them."""

    is_windowed: bool = field(init=False, repr=False, compare=False)
    """Whether there is a window: pages behind it are freed. A chunk alone frees none."""

    hides_old_keys: bool = field(init=False, repr=False, compare=False)
    """Whether there is a window or a chunk."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers", "at least one layer", "none")
        for name in ("num_heads", "num_kv_heads", "head_dim", "value_dim", "rollback"):
            _check_whole(name, getattr(self, name))
        check_in_range("num_heads", self.num_heads, 1, MAX_HEADS)
        check_in_range("num_kv_heads", self.num_kv_heads, 1, self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "num_kv_heads", f"a divisor of {self.num_heads} heads", self.num_kv_heads
            )
        check_in_range("head_dim", self.head_dim, 1, MAX_HEAD_DIM)
        check_in_range("value_dim", self.value_dim, 1, MAX_HEAD_DIM)
        check_in_range("rollback", self.rollback, 0, MAX_DISTANCE)
        if self.attention.window_ahead:
            raise ConfigError("window_ahead", "0 in a cache", self.attention.window_ahead)
        if self.rope is not None:
            _check_rope(self.rope, self.head_dim)
        if self.sinks is not None:
            _check_sinks(self.sinks, len(self.layers), self.num_heads)
        is_windowed = self.attention.window is not None
        object.__setattr__(self, "is_windowed", is_windowed)
        hides_old_keys = is_windowed or self.attention.chunk is not None
        object.__setattr__(self, "hides_old_keys", hides_old_keys)

    @property
    def num_axes(self) -> int:
        """Numbers of a position; 0 if nothing rotates."""
        return 0 if self.rope is None else self.rope.num_axes

    def first_visible(self, index: int) -> int:
        """Return the least index of a key that a query at `index` can see."""
        window, chunk = self.attention.window, self.attention.chunk
        first = -MAX_DISTANCE if window is None else index - window + 1
        return first if chunk is None else max(first, index - index % chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVConfig:
    """Everything that decides what a cache stores and how it answers.

    Raises:
        ConfigError: the layers of the groups are not 0 to L - 1, each once; ropes of groups have
            positions of different axes; or another field.
    """

    groups: tuple[KVGroup, ...]
    dtype: torch.dtype
    """Of q, k, v and out."""

    kv_dtype: KVDtype = "same"
    """Of stored keys and values."""

    num_axes: int = field(init=False, repr=False, compare=False)
    """Numbers of the position of a token, at least 1."""

    def __post_init__(self) -> None:
        layers = sorted(layer for group in self.groups for layer in group.layers)
        if not layers:
            raise ConfigError("groups", "at least one group", "none")
        check_in_range("layers", len(layers), 1, MAX_LAYERS)
        if layers != [*range(len(layers))]:
            expected = f"0 to {len(layers) - 1} over all groups, each once"
            raise ConfigError("layers", expected, layers)
        if self.dtype not in DTYPES:
            raise ConfigError("dtype", "float32, float16 or bfloat16", self.dtype)
        check_choice("kv_dtype", self.kv_dtype, get_args(KVDtype))
        axes = {group.num_axes for group in self.groups if group.rope is not None}
        if len(axes) > 1:
            expected = "with as many axes in each group that rotates"
            raise ConfigError("rope", expected, f"{sorted(axes)} axes")
        object.__setattr__(self, "num_axes", max(axes, default=1))

    @property
    def num_layers(self) -> int:
        """Number of layers of all groups."""
        return sum(len(group.layers) for group in self.groups)

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype of stored elements."""
        return self.dtype if self.kv_dtype == "same" else torch.float8_e4m3fn

    def batch_key(self, group: KVGroup) -> Hashable:
        """Return what calls of a group must have in common to run together."""
        heads = (group.num_heads, group.num_kv_heads, group.head_dim, group.value_dim)
        return *heads, self.dtype, self.kv_dtype, group.attention


def _check_whole(name: str, value: object) -> None:
    if type(value) is not int:
        raise ConfigError(name, "a whole number", repr(value))


def _check_rope(rope: RopeConfig, head_dim: int) -> None:
    if rope.head_dim != head_dim:
        raise ConfigError("rope.head_dim", f"head_dim {head_dim}", rope.head_dim)
    if rope.needs_length:
        raise ConfigError(
            "rope", f"with a fixed length: {rope.rope_type} depends on the length of a call", "none"
        )
    if rope.values != "kept":
        raise ConfigError("rope.values", '"kept" in a cache', repr(rope.values))
    if rope.learned is not None:
        raise ConfigError("rope.learned", "absent in a cache", repr(rope.learned))


def _check_sinks(sinks: tuple[tuple[float, ...], ...], num_layers: int, num_heads: int) -> None:
    shape = [len(sinks), *{len(layer) for layer in sinks}]
    if shape != [num_layers, num_heads]:
        raise ConfigError("sinks", f"[{num_layers} layers][{num_heads} heads]", shape)
    if not all(value < math.inf for layer in sinks for value in layer):  # true for NaN
        raise ConfigError("sinks", "finite numbers or -Infinity", "Infinity, or NaN")
