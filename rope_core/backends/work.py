"""The work of a backend. Only the library makes works, from valid calls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from rope_core.config import AttentionConfig, RopeConfig

UNBOUNDED = 2**31
"""Window size without a bound: larger than any distance."""


@dataclass(slots=True)
class RotaryWork:
    """Rotate each of `xs` into its out: heads of the same tokens, by the same angles."""

    xs: tuple[Tensor, ...]  # [T, H, D], each with its own H
    cos: Tensor  # [T, n] float32, or [T, H, n]
    sin: Tensor  # as cos
    scale: Tensor | None  # as cos: xPos's factor
    rope: RopeConfig
    inverse: bool
    outs: tuple[Tensor, ...]  # as xs; or xs themselves, to rotate in place
    transposed: bool = False  # multiply by the transposed matrix; only if rope is no rotation

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.cos.device


@dataclass(slots=True)
class FusedRotaryWork:
    """Rotate each of `xs` into its out by the products of positions and frequencies, in float64.

    Kernels compute the angles themselves; other backends take the same work `with_tables`.
    """

    xs: tuple[Tensor, ...]  # [T, H, D], each with its own H
    positions: Tensor  # [T]
    inv_freq: Tensor  # float64 [n], radians per position
    attention_scaling: float  # factor of cosine and sine; if inverse, that of the inverse
    rope: RopeConfig
    inverse: bool
    outs: tuple[Tensor, ...]  # as xs; or xs themselves, to rotate in place

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.positions.device

    def with_tables(self) -> RotaryWork:
        """Return the same work with cosines and sines `[T, n]`."""
        radians = self.positions.double()[:, None] * self.inv_freq
        cos, sin = ((t * self.attention_scaling).float() for t in (radians.cos(), radians.sin()))
        return RotaryWork(self.xs, cos, sin, None, self.rope, self.inverse, self.outs)


@dataclass(slots=True)
class AttentionWork:
    """Attend within each sequence: a row of a batch, or a slice of packed tokens."""

    q: Tensor  # [B, Sq, H, D], or packed [Tq, H, D]; rotated
    k: Tensor  # [B, Sk, Hkv, D], or packed [Tk, Hkv, D]; rotated
    v: Tensor  # [B, Sk, Hkv, Dv], or packed [Tk, Hkv, Dv]
    config: AttentionConfig
    lengths: tuple[Sequence[int], Sequence[int]] | None  # queries, keys of each packed sequence
    cu_seqlens: tuple[Tensor, Tensor] | None = None  # of queries, of keys: [N + 1]
    sinks: Tensor | None = None  # [H]
    mask: Tensor | None = None  # [B, 1 or H, Sq, Sk], or packed [1, 1 or H, Tq, Tk]
    index: tuple[Tensor, Tensor] | None = None  # of queries, of keys: int64 [B, S] or packed [T]
    out_dtype: torch.dtype | None = None  # that of q if None
    return_lse: bool = True
    bounds: tuple[float, float] | None = None  # |q| and |k| are not above them, if they are known

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.q.device

    @property
    def seq_slices(self) -> list[tuple[slice, slice]] | None:
        """Slices of queries and keys of each packed sequence that has queries; None of a batch."""
        if self.lengths is None:
            return None
        bounds = (pairwise(accumulate(lengths, initial=0)) for lengths in self.lengths)
        slices = [(slice(*queries), slice(*keys)) for queries, keys in zip(*bounds, strict=True)]
        return [(queries, keys) for queries, keys in slices if queries.start < queries.stop]

    def empty_outputs(self) -> tuple[Tensor, Tensor]:
        """Return uninitialized `out`, `[..., H, Dv]`, and `lse`, float32 `[..., H]`."""
        q, v = self.q, self.v
        dtype = self.out_dtype or q.dtype
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device=q.device)
        return out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)

    def packed(self) -> "AttentionWork":
        """Return the same work with rows of a batch as packed sequences, no mask, no index."""
        if self.lengths is not None:
            return self
        num_rows, num_queries, num_keys = len(self.q), self.q.shape[1], self.k.shape[1]
        rows = torch.arange(num_rows + 1, dtype=torch.int32, device=self.q.device)
        q, k, v = (x.flatten(0, 1) for x in (self.q, self.k, self.v))
        lengths = [num_queries] * num_rows, [num_keys] * num_rows
        cu_seqlens = rows * num_queries, rows * num_keys
        return replace(self, q=q, k=k, v=v, lengths=lengths, cu_seqlens=cu_seqlens)

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        scale = self.config.scale
        return float(self.q.shape[-1] ** -0.5) if scale is None else scale

    @property
    def window_size(self) -> tuple[int, int]:
        """How many keys before its own index a query sees, and how many after it."""
        config = self.config
        if config.window is not None:
            return config.window - 1, config.window_ahead
        return UNBOUNDED, 0 if config.causal else UNBOUNDED

    @property
    def may_mask(self) -> bool:
        """Whether a key may be hidden from a query of some sequence."""
        unbounded = self.window_size == (UNBOUNDED, UNBOUNDED)
        return not unbounded or self.config.chunk is not None or self.mask is not None

    def is_masked(self, num_queries: int, num_keys: int) -> bool:
        """Tell whether a key of a sequence of these lengths may be hidden from a query."""
        if self.mask is not None or self.index is not None or self.config.chunk is not None:
            return True
        left, right = self.window_size
        return left < num_keys - 1 or right < num_queries - 1

    def chunk_slices(self, num_queries: int, num_keys: int) -> list[tuple[slice, slice]]:
        """Return slices of queries and keys of each chunk of a sequence.

        The last query has the index of the last key; queries before the first key see none.
        """
        size = self.config.chunk
        offset = num_queries - num_keys
        if size is None or (offset <= 0 and num_keys <= size):
            return [(slice(0, num_queries), slice(0, num_keys))]
        slices = [(slice(0, offset), slice(0, 0))] if offset > 0 else []
        for start in range(max(0, -offset) // size * size, num_keys, size):
            end = min(start + size, num_keys)
            slices.append((slice(max(0, start + offset), end + offset), slice(start, end)))
        return slices


@dataclass(slots=True)
class MergeWork:
    """Merge attention over N disjoint sets of keys."""

    out: Tensor  # [N, ..., Dv]
    lse: Tensor  # float32 [N, ...]

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.out.device


Work = RotaryWork | FusedRotaryWork | AttentionWork | MergeWork
