"""Calls that attend, and their results."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from rope_core.calls.fields import TensorFields
from rope_core.calls.length import TakenLength, measured_length, taken_length
from rope_core.calls.rope_checks import (
    check_frequencies,
    check_positions,
    check_scale,
    not_a_rope,
)
from rope_core.checks import (
    DTYPES,
    check_choice,
    check_cu_seqlens,
    check_dtype,
    check_heads,
    check_index,
    check_mask,
    check_sinks,
    dtype_of,
    layout_hint,
    shape_of,
)
from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, ShapeError, brief

Sides = Literal["both", "q", "k", "none"]
"""The sides of attention that a call rotates."""


@dataclass(frozen=True, slots=True)
class Attend(TensorFields):
    """Rotate `q` and `k`, then attend."""

    q: Tensor
    """`[B, Sq, H, D]` or `[Tq, H, D]`."""

    k: Tensor
    """`[B, Sk, Hkv, D]` or `[Tk, Hkv, D]`; H is a multiple of Hkv (GQA, MQA)."""

    v: Tensor
    """`[B, Sk, Hkv, Dv]` or `[Tk, Hkv, Dv]`."""

    rope: RopeConfig | None
    """None rotates nothing (a layer without positions). It becomes None if `rotate` is `none`."""

    attention: AttentionConfig = field(default_factory=AttentionConfig)

    q_positions: Tensor | None = None
    """As `Rotate.positions`, of the queries."""

    k_positions: Tensor | None = None
    """As `Rotate.positions`, of the keys."""

    cu_seqlens_q: Tensor | None = None
    """As `Rotate.cu_seqlens`. Needs `cu_seqlens_k`."""

    cu_seqlens_k: Tensor | None = None

    return_lse: bool = False
    """Return the log-sum-exp of the scores of each query."""

    sinks: Tensor | None = None
    """`[H]`: a score for each head that joins the softmax without a value (gpt-oss). It is not
    scaled, soft-capped or masked. -inf is no sink."""

    mask: Tensor | None = None
    """`[Sq, Sk]` or `[B, H, Sq, Sk]`, any of them 1; of packed tokens `[Tq, Tk]` or `[1, H, Tq,
    Tk]`. Boolean, true for a visible key, or floating point that is added to the scores, -inf for
    a hidden key. Keys that `attention` hides stay hidden."""

    frequencies: Tensor | None = None
    """As `Rotate.frequencies`."""

    q_index: Tensor | None = None
    """int64 `[Sq]`, `[B, Sq]` or `[Tq]`: the index of each query in its whole sequence, for
    `causal`, `window` and `chunk`. None: the last query has the index of the last key."""

    k_index: Tensor | None = None
    """As `q_index`, for keys that are a part of their sequence, such as a shard. Needs `q_index`.
    None counts from 0."""

    out_dtype: torch.dtype | None = None
    """torch.float32 for parts that are to be merged; the dtype of q if None."""

    rotate: Sides = "both"
    """What is rotated: `q` if the keys are rotated already, as in a cache of keys, `k` if the
    queries are. A side that is not rotated has no positions. If the rope rotates v, v belongs to
    `k`, and the rotation of the output back belongs to `q`."""

    lengths: tuple[tuple[int, ...], tuple[int, ...]] | None = field(
        init=False, repr=False, compare=False
    )
    """Numbers of queries and of keys of each packed sequence."""

    length: TakenLength | None = field(default=None, init=False, repr=False, compare=False)
    """As `Rotate.length`, of queries and keys."""

    def __post_init__(self) -> None:
        q, k = self.q, self.k
        if not isinstance(self.rope, RopeConfig | None):
            raise not_a_rope("rope", self.rope)
        self._check_heads()
        self._check_rotation()
        object.__setattr__(self, "lengths", self._lengths())
        if self.rope is not None and self.rope.depends_on_length:
            length = taken_length(self.rope, self._measured_length)
            object.__setattr__(self, "length", length)
            object.__setattr__(self, "rope", self.rope.for_length(length.value))
        if self.rope is not None and self.rope.rope_type == "xpos":
            for name, heads, positions in self._rotated_sides():
                check_scale(name, positions, heads, self.rope)
        check_sinks("sinks", self.sinks, q.shape[-2])
        check_mask("mask", self.mask, q, k)
        check_index("q_index", self.q_index, q)
        check_index("k_index", self.k_index, k)
        if self.k_index is not None and self.q_index is None:
            raise ShapeError("q_index", "given if k_index is", "none")
        if self.out_dtype not in (None, torch.float32, q.dtype):
            expected = "float32 or that of q, as a torch.dtype"
            raise ConfigError("out_dtype", expected, brief(self.out_dtype))

    def _check_heads(self) -> None:
        """Check the shapes and dtypes of q, k and v against each other."""
        q, k, v, rope = self.q, self.k, self.v, self.rope
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            check_heads(name, tensor)
        if not q.dtype == k.dtype == v.dtype:
            raise ShapeError("q, k and v", "of one dtype", ", ".join(map(dtype_of, (q, k, v))))
        if k.ndim != q.ndim or k.shape[-1] != q.shape[-1]:
            raise ShapeError("k", f"of q's rank and head_dim {shape_of(q)}", shape_of(k))
        if k.ndim == 4 and len(k) != len(q):
            raise ShapeError("k", f"of q's batch size {len(q)}", shape_of(k))
        if v.shape[:-1] != k.shape[:-1]:
            raise ShapeError("v", f"of k's shape except the last axis {shape_of(k)}", shape_of(v))
        if q.shape[-2] % k.shape[-2]:
            expected = f"of a multiple of k's {k.shape[-2]} heads"
            raise ShapeError("q", expected, shape_of(q), layout_hint(q, k))
        if rope is not None and rope.head_dim != q.shape[-1]:
            raise ConfigError("head_dim", f"that of q, {q.shape[-1]}", rope.head_dim)
        if rope is not None and rope.values != "kept" and v.shape[-1] != q.shape[-1]:
            raise ShapeError("v", f"of q's head_dim {q.shape[-1]}, to be rotated", shape_of(v))

    def _check_rotation(self) -> None:
        """Check what rotates, and the positions and frequencies of the sides that rotate."""
        check_choice("rotate", self.rotate, get_args(Sides))
        if self.rope is None and self.rotate in ("q", "k"):
            raise ConfigError("rotate", "both or none if rope is null", self.rotate)
        if self.rotate == "none":
            object.__setattr__(self, "rope", None)
        for name, positions in (("q", self.q_positions), ("k", self.k_positions)):
            if positions is not None and self.rotate not in ("both", name):
                expected = f"absent: with rotate {self.rotate}, {name} is not rotated"
                raise ShapeError(f"{name}_positions", expected, shape_of(positions))
        sides = self._rotated_sides()
        if self.rope is not None:
            heads = (side[1] for side in sides)
            check_frequencies(self.frequencies, self.rope, *heads)
        for name, side, positions in sides:
            heads_name = name.removesuffix("_positions")
            check_positions(name, positions, heads_name, side, self.rope, self.frequencies)

    def _rotated_sides(self) -> list[tuple[str, Tensor, Tensor | None]]:
        """Return the name and the value of the positions of each side that rotates, and the heads.

        Both sides if the rope is None: their positions are checked although nothing rotates.
        """
        sides = []
        if self.rotate != "k":
            sides.append(("q_positions", self.q, self.q_positions))
        if self.rotate != "q":
            sides.append(("k_positions", self.k, self.k_positions))
        return sides

    def _lengths(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Check both cu_seqlens, and return the length of each sequence."""
        of_q, of_k = self.cu_seqlens_q, self.cu_seqlens_k
        if (of_q is None) != (of_k is None):
            raise ShapeError("cu_seqlens_q and cu_seqlens_k", "given together", "one of them")
        if of_q is None or of_k is None:
            return None
        check_cu_seqlens("cu_seqlens_q", of_q, self.q)
        check_cu_seqlens("cu_seqlens_k", of_k, self.k)
        if len(of_k) != len(of_q):
            expected = f"of {len(of_q)} elements as cu_seqlens_q"
            raise ShapeError("cu_seqlens_k", expected, shape_of(of_k))
        lengths_q, lengths_k = (
            tuple(end - start for start, end in pairwise(ends.tolist())) for ends in (of_q, of_k)
        )
        return lengths_q, lengths_k

    def _measured_length(self) -> TakenLength:
        """Return the length of the queries, or of the keys if these are longer."""
        if self.q_positions is not None and self.q_positions is self.k_positions:
            return measured_length("the call", self.q, self.q_positions, None)
        of_q = measured_length("q", self.q, self.q_positions, self.cu_seqlens_q)
        of_k = measured_length("k", self.k, self.k_positions, self.cu_seqlens_k)
        return of_k if of_k.value > of_q.value else of_q

    @property
    def num_tokens(self) -> int:
        """Number of queries."""
        return self.q.shape[:-2].numel()

    @property
    def num_sequences(self) -> int:
        """Number of sequences, or of their chunks, each of which attends on its own."""
        chunk = self.attention.chunk
        chunks = 0 if chunk is None else self.num_tokens // chunk
        if self.cu_seqlens_q is not None:
            return len(self.cu_seqlens_q) - 1 + chunks
        return (len(self.q) if self.q.ndim == 4 else 1) + chunks


@dataclass(frozen=True, slots=True)
class Attended(TensorFields):
    """Result of `Attend` and `Merge`."""

    out: Tensor
    """`[B, Sq, H, Dv]` or `[Tq, H, Dv]`, in the dtype of q or in `Attend.out_dtype`. 0 for a query
    that sees no key."""

    lse: Tensor | None
    """float32 `[B, Sq, H]` or `[Tq, H]`, natural logarithm, with the sink. -inf for a query that
    sees no key and has no sink."""

    backend: str = ""
    """Name of the backend that attended."""


@dataclass(frozen=True, slots=True)
class Merge(TensorFields):
    """Merge attention over N disjoint sets of keys into attention over all of them."""

    out: Tensor
    """`[N, ..., H, Dv]`."""

    lse: Tensor
    """float32 `[N, ..., H]`, natural logarithm."""

    def __post_init__(self) -> None:
        out, lse = self.out, self.lse
        check_dtype("out", out, *DTYPES)
        check_dtype("lse", lse, torch.float32)
        if out.ndim < 2 or not len(out):
            raise ShapeError("out", "[N, ..., Dv] with N at least 1", shape_of(out))
        if lse.shape != out.shape[:-1]:
            expected = f"of out's shape except the last axis, {list(out.shape[:-1])}"
            raise ShapeError("lse", expected, shape_of(lse))

    @property
    def num_tokens(self) -> int:
        """Number of rows of the result."""
        return self.lse[0].numel()
