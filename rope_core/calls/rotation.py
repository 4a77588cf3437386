"""Calls that rotate, and their results."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rope_core.calls.fields import TensorFields
from rope_core.calls.length import TakenLength, measured_length, taken_length
from rope_core.calls.rope_checks import (
    check_frequencies,
    check_invertible,
    check_position_axes,
    check_position_values,
    check_positions,
    check_scale,
    not_a_rope,
)
from rope_core.checks import (
    INTEGERS,
    check_cu_seqlens,
    check_heads,
    dtype_of,
    layout_hint,
    shape_of,
)
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True)
class Rotate(TensorFields):
    """Rotate `q` and `k` by the positions of their tokens."""

    q: Tensor | None
    """`[B, S, H, D]` or `[T, H, D]`."""

    k: Tensor | None
    """Like q, with its own number of heads."""

    rope: RopeConfig

    positions: Tensor | None = None
    """int64, or fractional in float32 or float64: `[S]`, `[B, S]` or `[T]`, of several axes
    `[A, B, S]` or `[A, T]`. None counts from 0 in each sequence."""

    cu_seqlens: Tensor | None = None
    """int32 or int64 `[N + 1]`: where each packed sequence starts, and the number of tokens."""

    inverse: bool = False
    """Rotate back: the exact inverse, with the attention scaling."""

    frequencies: Tensor | None = None
    """Learned by the model, if `rope.learned` is set: float32 `[A, H, rotary_dim / 2]` in radians
    per position (Mochi), or `[rotary_dim / 2]`, logarithms of factors."""

    length: TakenLength | None = field(default=None, init=False, repr=False, compare=False)
    """The length that decided the frequencies; None if they do not depend on one."""

    def __post_init__(self) -> None:
        q, k, rope = self.q, self.k, self.rope
        if not isinstance(rope, RopeConfig):
            raise not_a_rope("rope", rope)
        x = k if q is None else q
        if x is None:
            raise ShapeError("q or k", "given", "neither")
        if q is not None:
            check_heads("q", q, rope.head_dim)
        if k is not None:
            check_heads("k", k, rope.head_dim)
        if q is not None and k is not None and (q.shape[:-2], q.dtype) != (k.shape[:-2], k.dtype):
            expected = f"of q's tokens and dtype, {shape_of(q)} {dtype_of(q)}"
            raise ShapeError("k", expected, f"{shape_of(k)} {dtype_of(k)}", layout_hint(q, k))
        if rope.learned is not None or self.frequencies is not None:
            check_frequencies(self.frequencies, rope, q, k)
        heads_name = "k" if q is None else "q"
        check_positions("positions", self.positions, heads_name, x, rope, self.frequencies)
        if self.cu_seqlens is not None:
            check_cu_seqlens("cu_seqlens", self.cu_seqlens, x)
        if self.inverse:
            check_invertible("rope", rope)
        if rope.depends_on_length:
            length = taken_length(
                rope, lambda: measured_length("the call", x, self.positions, self.cu_seqlens)
            )
            rope = rope.for_length(length.value)
            object.__setattr__(self, "length", length)
            object.__setattr__(self, "rope", rope)
        if rope.rope_type == "xpos":
            check_scale("positions", self.positions, x, rope)

    @property
    def q_or_k(self) -> Tensor:
        """q, or k if there is no q: both have the same tokens."""
        x = self.k if self.q is None else self.q
        assert x is not None, "a valid call has one"
        return x

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        x = self.k if self.q is None else self.q  # without the call of q_or_k
        assert x is not None, "a valid call has one"
        return x.shape[:-2].numel()


@dataclass(frozen=True, slots=True)
class Rotated(TensorFields):
    """Result of `Rotate` and `Shift`: tensors of the shapes and dtypes of the call."""

    q: Tensor | None
    k: Tensor | None
    backend: str = ""
    """Name of the backend that rotated."""


@dataclass(frozen=True, slots=True)
class CosSin(TensorFields):
    """Compute cosine and sine of the angle of every pair at `positions`."""

    positions: Tensor
    """Any shape; int64, or fractional in float32 or float64. Several axes come first; `[S]` is one
    number for all of them."""

    rope: RopeConfig

    frequencies: Tensor | None = None
    """As `Rotate.frequencies`."""

    length: TakenLength | None = field(default=None, init=False, repr=False, compare=False)
    """As `Rotate.length`."""

    def __post_init__(self) -> None:
        if not isinstance(self.rope, RopeConfig):
            raise not_a_rope("rope", self.rope)
        check_frequencies(self.frequencies, self.rope)
        check_position_axes("positions", self.positions, self.rope, self.frequencies)
        if self.rope.depends_on_length:
            positions = self.positions
            length = taken_length(
                self.rope, lambda: measured_length("the call", positions, positions, None)
            )
            object.__setattr__(self, "length", length)
            object.__setattr__(self, "rope", self.rope.for_length(length.value))

    @property
    def has_axes(self) -> bool:
        """Whether the first dimension of positions is the axes."""
        if self.frequencies is not None and self.rope.learned == "frequencies":
            return True
        table = self.rope.frequency_table
        return table.num_axes > 1 and not (table.broadcasts_axes and self.positions.ndim < 2)

    @property
    def shape(self) -> torch.Size:
        """Shape of positions without their axes."""
        return self.positions.shape[int(self.has_axes) :]

    @property
    def num_tokens(self) -> int:
        """Number of positions."""
        return self.shape.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of the result."""
        return table_bytes(self.num_tokens, self.rope, self.frequencies)


def table_bytes(num_tokens: int, rope: RopeConfig, frequencies: Tensor | None) -> int:
    """Return the bytes of float32 tables of cos and sin, and of the scale of xPos."""
    heads = 1 if frequencies is None or frequencies.ndim < 3 else frequencies.shape[1]
    return num_tokens * heads * rope.table_row_bytes


@dataclass(frozen=True, slots=True)
class Table(TensorFields):
    """Result of `CosSin`: float32 `[..., rotary_dim / 2]`, with the attention scaling.

    `[..., rotary_dim]` if both members of a pair have an angle (XD-RoPE).
    """

    cos: Tensor
    sin: Tensor
    attention_scaling: float = 1.0
    """The factor in cos and sin."""
    scale: Tensor | None = None
    """xPos: factor of q, divisor of k, as cos; not in cos and sin."""


@dataclass(frozen=True, slots=True)
class Shift(TensorFields):
    """Move rotated keys by `delta` positions, by a pure rotation."""

    k: Tensor
    """`[B, S, H, D]` or `[T, H, D]`."""

    delta: Tensor
    """int64, negative to move back: one number, or `[S]`, `[B, S]` or `[T]`."""

    rope: RopeConfig
    """How the keys were rotated."""

    positions: Tensor | None = None
    """Positions of the keys, as `Rotate.positions`."""

    to: RopeConfig | None = None
    """How to rotate the keys if frequencies change (a longer context). Needs `positions`."""

    length: TakenLength | None = field(default=None, init=False, repr=False, compare=False)
    """As `Rotate.length`, before the shift."""

    to_length: TakenLength | None = field(default=None, init=False, repr=False, compare=False)
    """As `Rotate.length`, of `to`, after the shift."""

    def __post_init__(self) -> None:
        k, positions = self.k, self.positions
        if not isinstance(self.rope, RopeConfig):
            raise not_a_rope("rope", self.rope)
        if not isinstance(self.to, RopeConfig | None):
            raise not_a_rope("to", self.to)
        check_heads("k", k, self.rope.head_dim)
        if isinstance(self.delta, Tensor) and self.delta.dtype not in INTEGERS:
            raise ShapeError("delta", "int64", dtype_of(self.delta))
        if isinstance(self.delta, Tensor) and self.delta.ndim:
            check_positions("delta", self.delta, "k", k)
        else:
            check_position_values("delta", self.delta, None)
        if positions is not None:
            check_positions("positions", positions, "k", k, self.rope)
        for name in ("rope", "to"):
            rope: RopeConfig | None = getattr(self, name)
            if rope is None:
                continue
            if rope.learned is not None:
                expected = "a rope without learned frequencies"
                raise ConfigError(name, expected, f"learned {rope.learned!r}")
            if rope.head_dim != k.shape[-1]:
                expected = f"that of k, {k.shape[-1]}"
                raise ConfigError(f"{name}.head_dim", expected, rope.head_dim)
            if rope.depends_on_length:
                self._take_length(rope, name)
        if self.to is None and self.rope.is_composable:
            return
        if positions is None:
            expected = (
                "given: without them, the frequencies must stay the same and rotations must add up"
            )
            raise ShapeError("positions", expected, "none")
        check_invertible("rope", self.rope)
        rope = self.to or self.rope
        check_positions("positions + delta", self.shifted_positions, "k", k, rope)

    def _take_length(self, rope: RopeConfig, name: str) -> None:
        """Take the length before the shift for `rope`, and the length after it for `to`."""
        k, positions = self.k, self.positions
        if rope.needs_length and positions is None:
            raise ConfigError("length", f"given for {rope.rope_type} without positions", "neither")
        before = taken_length(rope, lambda: measured_length("the call", k, positions, None), name)
        after = taken_length(
            rope,
            lambda: measured_length("the shifted keys", k, self.shifted_positions, None),
            name,
        )
        ropes = rope.for_length(before.value), rope.for_length(after.value)
        if self.to is None and ropes[0] != ropes[1] and rope.rope_type != "xpos":
            expected = f"given, or length: after the shift {rope.rope_type} has other frequencies"
            raise ConfigError("to", expected, "neither")
        is_to = name == "to"
        object.__setattr__(self, "to_length" if is_to else "length", after if is_to else before)
        object.__setattr__(self, name, ropes[is_to])

    @property
    def shifted_positions(self) -> Tensor:
        """Positions of the keys after the shift. Needs `positions`."""
        positions, delta = self.positions, self.delta
        assert positions is not None, "read only if they are given"
        has_rows = delta.ndim == self.k.ndim - 2 == positions.ndim == 2
        if has_rows and not self.rope.frequency_table.broadcasts_axes:
            positions = positions[:, None]  # [A, S], the same for all rows
        return positions + delta

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.k.shape[:-2].numel()
