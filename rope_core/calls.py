"""What can be asked of the library. A call that exists is valid.

Tensors are `[B, S, H, D]` (batch, sequence, heads, head_dim) or packed `[T, H, D]`, T tokens of one
sequence or of those that `cu_seqlens` tells apart. Floating point is float32, float16 or bfloat16.
Every constructor raises `ShapeError` or `ConfigError` for what does not fit.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rope_core.checks import (
    DTYPES,
    INTEGERS,
    bytes_of,
    check_cu_seqlens,
    check_heads,
    check_position_dtype,
    check_positions,
    dtype_of,
    shape_of,
    tokens_of,
)
from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True)
class Rotate:
    """Rotate `q` and `k` by the positions of their tokens."""

    q: Tensor | None
    """`[B, S, H, D]` or `[T, H, D]`."""

    k: Tensor | None
    """Like q, with its own number of heads."""

    rope: RopeConfig

    positions: Tensor | None = None
    """int64, or fractional in float32 or float64: `[S]`, `[B, S]` or `[T]`. None counts from 0
    in each sequence."""

    cu_seqlens: Tensor | None = None
    """int32 or int64 `[N + 1]`: where each packed sequence starts, and the number of tokens."""

    inverse: bool = False
    """Rotate back."""

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
        check_positions("positions", self.positions, x)
        check_cu_seqlens("cu_seqlens", self.cu_seqlens, x)

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
        tensors = self.q, self.k, self.positions, self.cu_seqlens
        return sum(map(bytes_of, tensors))


@dataclass(frozen=True, slots=True)
class Rotated:
    """The answer to `Rotate`: tensors of the shapes and dtypes that were asked."""

    q: Tensor | None
    k: Tensor | None


@dataclass(frozen=True, slots=True)
class Attend:
    """Rotate `q` and `k`, then attend."""

    q: Tensor
    """`[B, Sq, H, D]` or `[Tq, H, D]`."""

    k: Tensor
    """`[B, Sk, Hkv, D]` or `[Tk, Hkv, D]`; H is a multiple of Hkv (GQA, MQA)."""

    v: Tensor
    """`[B, Sk, Hkv, Dv]` or `[Tk, Hkv, Dv]`."""

    rope: RopeConfig | None
    """None rotates nothing (a NoPE layer)."""

    attention: AttentionConfig = field(default_factory=AttentionConfig)

    q_positions: Tensor | None = None
    """As `Rotate.positions`, of the queries."""

    k_positions: Tensor | None = None
    """As `Rotate.positions`, of the keys."""

    cu_seqlens_q: Tensor | None = None
    """As `Rotate.cu_seqlens`; given with `cu_seqlens_k` or not at all."""

    cu_seqlens_k: Tensor | None = None

    return_lse: bool = False
    """Answer the log-sum-exp of each query's scores, too."""

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            check_heads(name, tensor)
        q_shape, k_shape, v_shape = q.shape, k.shape, v.shape
        if not q.dtype == k.dtype == v.dtype:
            raise ShapeError("q, k and v", "of one dtype", ", ".join(map(dtype_of, (q, k, v))))
        if len(k_shape) != len(q_shape) or k_shape[-1] != q_shape[-1]:
            raise ShapeError("k", f"of q's rank and head_dim {shape_of(q)}", shape_of(k))
        if len(k_shape) == 4 and k_shape[0] != q_shape[0]:
            raise ShapeError("k", f"of batch {q_shape[0]} as q", shape_of(k))
        if v_shape[:-1] != k_shape[:-1]:
            raise ShapeError("v", f"of k's shape but for the last axis {shape_of(k)}", shape_of(v))
        if q_shape[-2] % k_shape[-2]:
            raise ShapeError("q", f"of a multiple of k's {k_shape[-2]} heads", shape_of(q))
        if self.rope is not None and self.rope.head_dim != q_shape[-1]:
            raise ConfigError("head_dim", f"that of q, {q_shape[-1]}", self.rope.head_dim)
        check_positions("q_positions", self.q_positions, q)
        check_positions("k_positions", self.k_positions, k)
        if (self.cu_seqlens_q is None) != (self.cu_seqlens_k is None):
            raise ShapeError("cu_seqlens_q and cu_seqlens_k", "given together", "one of them")
        check_cu_seqlens("cu_seqlens_q", self.cu_seqlens_q, q)
        check_cu_seqlens("cu_seqlens_k", self.cu_seqlens_k, k)
        if self.cu_seqlens_q is not None and self.cu_seqlens_k is not None:
            expected = f"of {len(self.cu_seqlens_q)} elements as cu_seqlens_q"
            if len(self.cu_seqlens_k) != len(self.cu_seqlens_q):
                raise ShapeError("cu_seqlens_k", expected, shape_of(self.cu_seqlens_k))

    @property
    def num_tokens(self) -> int:
        """Queries in all."""
        return tokens_of(self.q)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        tensors = self.q, self.k, self.v, self.q_positions, self.k_positions
        return sum(map(bytes_of, (*tensors, self.cu_seqlens_q, self.cu_seqlens_k)))

    @property
    def num_sequences(self) -> int:
        """Sequences that are attended to one by one."""
        if self.cu_seqlens_q is not None:
            return len(self.cu_seqlens_q) - 1
        return self.q.shape[0] if self.q.ndim == 4 else 1


@dataclass(frozen=True, slots=True)
class Attended:
    """The answer to `Attend`."""

    out: Tensor
    """`[B, Sq, H, Dv]` or `[Tq, H, Dv]`, in q's dtype; 0 for a query that sees no key."""

    lse: Tensor | None
    """float32 `[B, Sq, H]` or `[Tq, H]`, natural logarithm; -inf for a query that sees no key."""


@dataclass(frozen=True, slots=True)
class CosSin:
    """Cosine and sine of every pair's angle at `positions`."""

    positions: Tensor
    """Of any shape; int64, or fractional in float32 or float64."""

    rope: RopeConfig

    def __post_init__(self) -> None:
        check_position_dtype("positions", self.positions)

    @property
    def num_tokens(self) -> int:
        """Positions in all."""
        return self.positions.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of the answer."""
        return self.positions.numel() * self.rope.rotary_dim * 4


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to `CosSin`: float32 `[..., rotary_dim / 2]`, rounded once from float64."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Shift:
    """Move keys, rotated already, `delta` positions on (negative: back) by a pure rotation."""

    k: Tensor
    """`[B, S, H, D]` or `[T, H, D]`."""

    delta: Tensor
    """int64: one number, or `[S]`, `[B, S]` or `[T]`."""

    rope: RopeConfig

    positions: Tensor | None = None
    """Where the keys are, as `Rotate.positions`."""

    def __post_init__(self) -> None:
        check_heads("k", self.k, self.rope.head_dim)
        if self.delta.dtype not in INTEGERS:
            raise ShapeError("delta", "int64", dtype_of(self.delta))
        if self.delta.ndim:
            check_positions("delta", self.delta, self.k)
        check_positions("positions", self.positions, self.k)

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return tokens_of(self.k)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return bytes_of(self.k) + bytes_of(self.delta)


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge attention over N disjoint sets of keys into attention over all of them."""

    out: Tensor
    """`[N, ..., H, Dv]`."""

    lse: Tensor
    """float32 `[N, ..., H]`, natural logarithm."""

    def __post_init__(self) -> None:
        if self.out.dtype not in DTYPES:
            raise ShapeError("out", "float32, float16 or bfloat16", dtype_of(self.out))
        if self.lse.dtype != torch.float32:
            raise ShapeError("lse", "float32", dtype_of(self.lse))
        if self.out.ndim < 2 or not self.out.shape[0]:
            raise ShapeError("out", "[N, ..., Dv] with N at least 1", shape_of(self.out))
        if self.lse.shape != self.out.shape[:-1]:
            expected = f"of out's shape but for the last axis, {list(self.out.shape[:-1])}"
            raise ShapeError("lse", expected, shape_of(self.lse))

    @property
    def num_tokens(self) -> int:
        """Rows of the answer."""
        return self.lse[0].numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of out and lse."""
        return bytes_of(self.out) + bytes_of(self.lse)


Call = Rotate | Attend | CosSin | Shift | Merge
Result = Rotated | Attended | Table
