"""What a backend is given. Works are made by the library alone, from calls that are valid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from rope_core.config import AttentionConfig, RopeConfig

UNBOUNDED = 2**31
"""A distance beyond all others."""


@dataclass(slots=True)
class Rotation:
    """Rotate each of `xs` into its out: heads of the same tokens, by the same angles."""

    xs: tuple[Tensor, ...]  # [T, H, D], each with its own H
    cos: Tensor  # [T, n] float32, or [T, H, n]
    sin: Tensor  # as cos
    scale: Tensor | None  # as cos: a factor of its own
    rope: RopeConfig
    inverse: bool
    outs: tuple[Tensor, ...]  # as xs; or the very xs, to rotate in place

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.cos.device


@dataclass(slots=True)
class Turning:
    """Rotate each of `xs` into its out by the products of positions and frequencies, in float64.

    Kernels compute the angles themselves; `with_angles` returns the same work for other backends.
    """

    xs: tuple[Tensor, ...]  # [T, H, D], each with its own H
    positions: Tensor  # [T]
    inv_freq: Tensor  # float64 [n], radians per position
    gain: float  # of cosine and sine
    rope: RopeConfig
    inverse: bool  # the gain is that of the way back already
    outs: tuple[Tensor, ...]  # as xs: themselves, or what shares no memory with them

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.positions.device

    def with_angles(self) -> Rotation:
        """Return the same work with its cosines and sines computed."""
        radians = self.positions.double()[:, None] * self.inv_freq
        cos, sin = ((t * self.gain).float() for t in (radians.cos(), radians.sin()))
        return Rotation(self.xs, cos, sin, None, self.rope, self.inverse, self.outs)


@dataclass(slots=True)
class Attention:
    """Attend within each sequence: rows of a batch, or spans of packed tokens."""

    q: Tensor  # [B, Sq, H, D], or packed [Tq, H, D]; rotated
    k: Tensor  # [B, Sk, Hkv, D], or packed [Tk, Hkv, D]; rotated
    v: Tensor  # [B, Sk, Hkv, Dv], or packed [Tk, Hkv, Dv]
    config: AttentionConfig
    lengths: tuple[Sequence[int], Sequence[int]] | None  # queries, keys of each packed sequence
    cu_seqlens: tuple[Tensor, Tensor] | None = None  # the same, added up: [N + 1]
    sinks: Tensor | None = None  # [H]
    mask: Tensor | None = None  # [B, 1 or H, Sq, Sk], or packed [1, 1 or H, Tq, Tk]
    index: tuple[Tensor, Tensor] | None = None  # of queries and keys, int64 [B, S] or packed [T]
    out_dtype: torch.dtype | None = None  # q's where None
    return_lse: bool = True

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.q.device

    @property
    def seq_slices(self) -> list[tuple[slice, slice]] | None:
        """Queries and keys of each packed sequence that has queries."""
        if self.lengths is None:
            return None
        ends = (pairwise(accumulate(each, initial=0)) for each in self.lengths)
        spans = zip(*ends, strict=True)
        return [(slice(*queries), slice(*keys)) for queries, keys in spans if len({*queries}) > 1]

    def new_out(self) -> tuple[Tensor, Tensor]:
        """Return memory for `out` and `lse`."""
        q, v = self.q, self.v
        dtype = self.out_dtype or q.dtype
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device=q.device)
        return out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)

    def packed(self) -> "Attention":
        """Return the same work with rows of a batch laid end to end; it has no mask or index."""
        if self.lengths is not None:
            return self
        rows, num_queries, num_keys = len(self.q), self.q.shape[1], self.k.shape[1]
        steps = torch.arange(rows + 1, dtype=torch.int32, device=self.q.device)
        q, k, v = (x.flatten(0, 1) for x in (self.q, self.k, self.v))
        lengths = [num_queries] * rows, [num_keys] * rows
        ends = steps * num_queries, steps * num_keys
        return replace(self, q=q, k=k, v=v, lengths=lengths, cu_seqlens=ends)

    @property
    def scale(self) -> float:
        """Multiplier of the scores."""
        given = self.config.scale
        return float(self.q.shape[-1] ** -0.5) if given is None else given

    @property
    def window_size(self) -> tuple[int, int]:
        """How many keys behind its own place a query sees, and how many ahead of it."""
        config = self.config
        if config.window is not None:
            return config.window - 1, config.window_ahead
        return UNBOUNDED, 0 if config.causal else UNBOUNDED

    @property
    def masked(self) -> bool:
        """Whether a key may be hidden from a query."""
        return (
            self.window_size != (UNBOUNDED, UNBOUNDED)
            or self.config.chunk is not None
            or self.mask is not None
        )

    def is_masked(self, num_queries: int, num_keys: int) -> bool:
        """Tell whether a key of a sequence of these lengths may be hidden from a query."""
        if self.mask is not None or self.index is not None or self.config.chunk is not None:
            return True
        behind, ahead = self.window_size
        return behind < num_keys - 1 or ahead < num_queries - 1

    def chunks(self, num_queries: int, num_keys: int) -> list[tuple[slice, slice]]:
        """Return queries and keys of each chunk of a sequence, in which all else applies alike.

        The last query is at the place of the last key; those before the first key see none.
        """
        size = self.config.chunk
        before = num_queries - num_keys
        if size is None or (before <= 0 and num_keys <= size):
            return [(slice(num_queries), slice(num_keys))]
        found = [(slice(before), slice(0))] if before > 0 else []
        first = max(0, -before) // size * size
        for start in range(first, num_keys, size):
            end = min(start + size, num_keys)
            found.append((slice(max(0, start + before), end + before), slice(start, end)))
        return found


@dataclass(slots=True)
class Merging:
    """Merge attention over N disjoint sets of keys."""

    out: Tensor  # [N, ..., Dv]
    lse: Tensor  # float32 [N, ...]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.out.device


Work = Rotation | Turning | Attention | Merging
