"""What can be asked of rotation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.calls.rope_checks import (
    check_frequencies,
    check_gain,
    check_position_axes,
    check_positions,
    check_scale,
)
from rope_core.checks import (
    INTEGERS,
    bytes_of,
    check_cu_seqlens,
    check_heads,
    dtype_of,
    shape_of,
    tokens_of,
)
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, ShapeError
from rope_core.ragged import reach


@dataclass(frozen=True, slots=True)
class Rotate:
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
    """Rotate back: the exact inverse, the gain included."""

    frequencies: Tensor | None = None
    """What a model has learned, where `rope.learned` asks for it: float32 `[A, H, rotary_dim / 2]`
    in radians per position (Mochi), or `[rotary_dim / 2]`, logarithms of factors."""

    def __post_init__(self) -> None:
        q, k = self.q, self.k
        x = k if q is None else q
        if x is None:
            raise ShapeError("q or k", "given", "neither")
        if q is not None:
            check_heads("q", q, self.rope.head_dim)
        if k is not None:
            check_heads("k", k, self.rope.head_dim)
        if q is not None and k is not None and (q.shape[:-2], q.dtype) != (k.shape[:-2], k.dtype):
            expected = f"of q's tokens and dtype, {shape_of(q)} {dtype_of(q)}"
            raise ShapeError("k", expected, f"{shape_of(k)} {dtype_of(k)}")
        check_frequencies(self.frequencies, self.rope, q, k)
        check_positions("positions", self.positions, x, self.rope, self.frequencies)
        check_cu_seqlens("cu_seqlens", self.cu_seqlens, x)
        if self.inverse:
            check_gain("rope", self.rope)
        if self.rope.needs_length:
            length = reach(x, self.positions, self.cu_seqlens)
            object.__setattr__(self, "rope", self.rope.at(length))
        check_scale("positions", self.positions, x, self.rope)

    @property
    def like(self) -> Tensor:
        """One of q and k: both have the same tokens."""
        x = self.k if self.q is None else self.q
        assert x is not None, "one of them is given"
        return x

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return tokens_of(self.like)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        tensors = self.q, self.k, self.positions, self.cu_seqlens, self.frequencies
        return sum(map(bytes_of, tensors))


@dataclass(frozen=True, slots=True)
class Rotated:
    """The answer to `Rotate`: tensors of the shapes and dtypes that were asked."""

    q: Tensor | None
    k: Tensor | None
    backend: str = ""
    """Name of the backend that rotated."""


@dataclass(frozen=True, slots=True)
class CosSin:
    """Cosine and sine of every pair's angle at `positions`."""

    positions: Tensor
    """Of any shape; int64, or fractional in float32 or float64. Axes come first where there are
    several; `[S]` is one number for all of them."""

    rope: RopeConfig

    frequencies: Tensor | None = None
    """As `Rotate.frequencies`."""

    def __post_init__(self) -> None:
        check_frequencies(self.frequencies, self.rope)
        check_position_axes("positions", self.positions, self.rope, self.frequencies)
        if self.rope.needs_length:
            length = reach(self.positions, self.positions, None)
            object.__setattr__(self, "rope", self.rope.at(length))

    @property
    def has_axes(self) -> bool:
        """Whether the first dimension of positions is that of axes."""
        if self.frequencies is not None and self.rope.learned == "frequencies":
            return True
        columns = self.rope.columns
        return columns.num_axes > 1 and not (columns.of_text and self.positions.ndim < 2)

    @property
    def shape(self) -> torch.Size:
        """Shape of positions without their axes."""
        return self.positions.shape[int(self.has_axes) :]

    @property
    def num_tokens(self) -> int:
        """Positions in all."""
        return self.shape.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of the answer."""
        each_head = self.frequencies is not None and self.frequencies.ndim == 3
        heads = len(self.frequencies[0]) if each_head and self.frequencies is not None else 1
        widest = self.rope.rotary_dim if self.rope.axes == "xdrope" else self.rope.half
        return self.num_tokens * heads * widest * (12 if self.rope.rope_type == "xpos" else 8)


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to `CosSin`: float32 `[..., rotary_dim / 2]`, the gain included.

    `[..., rotary_dim]` where both members of a pair have angles of their own (XD-RoPE).
    """

    cos: Tensor
    sin: Tensor
    attention_scaling: float = 1.0
    """The gain."""
    scale: Tensor | None = None
    """xPos: what q is multiplied by, and k divided by; not in cos and sin."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Move keys, rotated already, `delta` positions on (negative: back) by a pure rotation."""

    k: Tensor
    """`[B, S, H, D]` or `[T, H, D]`."""

    delta: Tensor
    """int64: one number, or `[S]`, `[B, S]` or `[T]`."""

    rope: RopeConfig
    """What the keys are rotated by."""

    positions: Tensor | None = None
    """Where the keys are, as `Rotate.positions`."""

    to: RopeConfig | None = None
    """What they shall be rotated by, where frequencies change (a longer context): needs
    `positions`."""

    def __post_init__(self) -> None:
        check_heads("k", self.k, self.rope.head_dim)
        if self.delta.dtype not in INTEGERS:
            raise ShapeError("delta", "int64", dtype_of(self.delta))
        if self.delta.ndim:
            check_positions("delta", self.delta, self.k)
        if self.positions is not None:
            check_positions("positions", self.positions, self.k, self.rope)
        for name in ("rope", "to"):
            rope: RopeConfig | None = getattr(self, name)
            if rope is not None and rope.learned is not None:
                raise ConfigError(name, "one whose frequencies are not learned", "one")
            if rope is not None and rope.head_dim != self.k.shape[-1]:
                raise ConfigError(
                    f"{name}.head_dim", f"that of k, {self.k.shape[-1]}", rope.head_dim
                )
            if rope is not None and rope.needs_length and self.positions is not None:
                here = rope.at(reach(self.k, self.positions, None))
                there = rope.at(reach(self.k, self.moved, None))
                if self.to is None and here != there and rope.rope_type != "xpos":
                    expected = f"given, or length: {rope.rope_type} has other frequencies there"
                    raise ConfigError("to", expected, "neither")
                object.__setattr__(self, name, here if name == "rope" else there)
            elif rope is not None and rope.needs_length:
                raise ConfigError("length", f"given for {rope.rope_type}, or positions", "neither")
        if self.to is None and self.rope.adds_up:
            return
        if self.positions is None:
            why = "where frequencies change, or turns do not add up"
            raise ShapeError("positions", f"given {why}", "none")
        check_gain("rope", self.rope)
        check_positions("positions + delta", self.moved, self.k, self.to or self.rope)

    @property
    def moved(self) -> Tensor:
        """Where the keys go. It needs `positions`."""
        at, delta = self.positions, self.delta
        assert at is not None, "asked for only where they are given"
        if delta.ndim == self.k.ndim - 2 == at.ndim == 2 and not self.rope.columns.of_text:
            at = at[:, None]  # [A, S], the same for all rows
        return at + delta

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return tokens_of(self.k)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(map(bytes_of, (self.k, self.delta, self.positions)))
