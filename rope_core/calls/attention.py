"""What can be asked of attention."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from rope_core.calls.rope_checks import (
    check_frequencies,
    check_positions,
    check_scale,
)
from rope_core.checks import (
    DTYPES,
    bytes_of,
    check_cu_seqlens,
    check_heads,
    check_index,
    check_mask,
    check_sinks,
    dtype_of,
    shape_of,
    tokens_of,
)
from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, ShapeError
from rope_core.ragged import reach


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

    sinks: Tensor | None = None
    """`[H]`: a score for each head that joins the softmax and brings no value (gpt-oss). It is as
    it is: not scaled, soft-capped or masked. -inf is no sink."""

    mask: Tensor | None = None
    """`[Sq, Sk]` or `[B, H, Sq, Sk]`, any of them 1; of packed tokens `[Tq, Tk]` or `[1, H, Tq,
    Tk]`. Booleans, true where a key may be seen, or floating point that is added to the scores,
    -inf where it may not. What `attention` hides stays hidden."""

    frequencies: Tensor | None = None
    """As `Rotate.frequencies`."""

    q_index: Tensor | None = None
    """int64 `[Sq]`, `[B, Sq]` or `[Tq]`: the place of each query in its whole sequence, for
    `causal`, `window` and `chunk`. None: the last query is at the place of the last key."""

    k_index: Tensor | None = None
    """As `q_index`, of keys that are a part of their sequence, such as a shard; needs `q_index`.
    None counts from 0."""

    out_dtype: torch.dtype | None = None
    """torch.float32 answers `out` in it, not in q's dtype: parts that are to be merged."""

    lengths: tuple[tuple[int, ...], tuple[int, ...]] | None = field(
        init=False, repr=False, compare=False
    )
    """Numbers of queries and of keys of each packed sequence."""

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
        rope = self.rope
        if rope is not None:
            if rope.head_dim != q_shape[-1]:
                raise ConfigError("head_dim", f"that of q, {q_shape[-1]}", rope.head_dim)
            if rope.values != "kept" and v_shape[-1] != q_shape[-1]:
                raise ShapeError("v", f"of q's head_dim {q_shape[-1]}, to be rotated", shape_of(v))
            check_frequencies(self.frequencies, rope, q, k)
        check_positions("q_positions", self.q_positions, q, rope, self.frequencies)
        check_positions("k_positions", self.k_positions, k, rope, self.frequencies)
        if (self.cu_seqlens_q is None) != (self.cu_seqlens_k is None):
            raise ShapeError("cu_seqlens_q and cu_seqlens_k", "given together", "one of them")
        check_cu_seqlens("cu_seqlens_q", self.cu_seqlens_q, q)
        check_cu_seqlens("cu_seqlens_k", self.cu_seqlens_k, k)
        if self.cu_seqlens_q is not None and self.cu_seqlens_k is not None:
            expected = f"of {len(self.cu_seqlens_q)} elements as cu_seqlens_q"
            if len(self.cu_seqlens_k) != len(self.cu_seqlens_q):
                raise ShapeError("cu_seqlens_k", expected, shape_of(self.cu_seqlens_k))
        if rope is not None and rope.needs_length:
            lengths = (
                reach(q, self.q_positions, self.cu_seqlens_q),
                reach(k, self.k_positions, self.cu_seqlens_k),
            )
            rope = rope.at(max(lengths))
            object.__setattr__(self, "rope", rope)
        if rope is not None:
            check_scale("q_positions", self.q_positions, q, rope)
            check_scale("k_positions", self.k_positions, k, rope)
        check_sinks("sinks", self.sinks, q_shape[-2])
        check_mask("mask", self.mask, q, k)
        check_index("q_index", self.q_index, q)
        check_index("k_index", self.k_index, k)
        if self.k_index is not None and self.q_index is None:
            raise ShapeError("q_index", "given where k_index is", "none")
        if self.out_dtype not in (None, torch.float32, q.dtype):
            raise ConfigError("out_dtype", "float32 or that of q", self.out_dtype)
        object.__setattr__(self, "lengths", self._lengths())

    def _lengths(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        if self.cu_seqlens_q is None or self.cu_seqlens_k is None:
            return None
        return _each_length(self.cu_seqlens_q), _each_length(self.cu_seqlens_k)

    @property
    def num_tokens(self) -> int:
        """Queries in all."""
        return tokens_of(self.q)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        tensors = self.q, self.k, self.v, self.q_positions, self.k_positions
        others = self.cu_seqlens_q, self.cu_seqlens_k, self.sinks, self.mask, self.frequencies
        return sum(map(bytes_of, (*tensors, *others, self.q_index, self.k_index)))

    @property
    def num_sequences(self) -> int:
        """Sequences, or chunks of them, that are attended to one by one."""
        chunk = self.attention.chunk
        chunks = 0 if chunk is None else self.num_tokens // chunk
        if self.cu_seqlens_q is not None:
            return len(self.cu_seqlens_q) - 1 + chunks
        return (self.q.shape[0] if self.q.ndim == 4 else 1) + chunks


def _each_length(cu_seqlens: Tensor) -> tuple[int, ...]:
    return tuple(end - start for start, end in pairwise(cu_seqlens.tolist()))


@dataclass(frozen=True, slots=True)
class Attended:
    """The answer to `Attend`."""

    out: Tensor
    """`[B, Sq, H, Dv]` or `[Tq, H, Dv]`, in q's dtype or in `Attend.out_dtype`; 0 for a query that
    sees no key."""

    lse: Tensor | None
    """float32 `[B, Sq, H]` or `[Tq, H]`, natural logarithm, the sink's share included; -inf for a
    query that sees no key and has no sink."""

    backend: str = ""
    """Name of the backend that attended."""


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
