"""What a backend is given. Works are made by the library alone, from calls that are valid."""

from dataclasses import dataclass

from torch import Tensor

from rope_core.config import AttentionConfig, RopeConfig

FAR = 2**31
"""A distance beyond all others."""


@dataclass(slots=True)
class Rotation:
    """Rotate `x` into `out`."""

    x: Tensor  # [T, H, D]
    cos: Tensor  # [T, n] float32, or [T, H, n]
    sin: Tensor  # as cos
    scale: Tensor | None  # as cos: a factor of its own
    rope: RopeConfig
    inverse: bool
    out: Tensor  # [T, H, D], contiguous, shares no memory with x


@dataclass(slots=True)
class Attention:
    """Attend within each sequence: rows of a batch, or spans of packed tokens."""

    q: Tensor  # [B, Sq, H, D], or packed [Tq, H, D]; rotated
    k: Tensor  # [B, Sk, Hkv, D], or packed [Tk, Hkv, D]; rotated
    v: Tensor  # [B, Sk, Hkv, Dv], or packed [Tk, Hkv, Dv]
    config: AttentionConfig
    spans: list[tuple[slice, slice]] | None  # queries and keys of each packed sequence
    sinks: Tensor | None = None  # [H]
    mask: Tensor | None = None  # [B, 1 or H, Sq, Sk], or packed [1, 1 or H, Tq, Tk]

    @property
    def scale(self) -> float:
        """Multiplier of the scores."""
        given = self.config.scale
        return float(self.q.shape[-1] ** -0.5) if given is None else given

    @property
    def reach(self) -> tuple[int, int]:
        """How many keys behind its own place a query sees, and how many ahead of it."""
        config = self.config
        if config.window is not None:
            return config.window - 1, config.window_ahead
        return FAR, 0 if config.causal else FAR

    @property
    def masked(self) -> bool:
        """Whether a key may be hidden from a query."""
        return self.reach != (FAR, FAR) or self.config.chunk is not None or self.mask is not None

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


Work = Rotation | Attention
