"""What a backend is given. Tensors are packed: `[T, H, D]`, T tokens of all sequences.

Works are made by the library alone, from calls that are valid, so they check nothing.
"""

from dataclasses import dataclass

from torch import Tensor

from rope_core.config import AttentionConfig, Layout

Spans = list[tuple[int, int]]


@dataclass(slots=True)
class Rotation:
    """Rotate `x` into `out`."""

    x: Tensor  # [T, H, D]
    cos: Tensor  # [T, half] float32
    sin: Tensor  # [T, half] float32
    layout: Layout
    inverse: bool
    out: Tensor  # [T, H, D], contiguous, shares no memory with x


@dataclass(slots=True)
class Attention:
    """Attend from the queries `q_spans[i]` to the keys `k_spans[i]`, into `out` and `lse`."""

    q: Tensor  # [Tq, H, D], rotated
    k: Tensor  # [Tk, Hkv, D], rotated
    v: Tensor  # [Tk, Hkv, Dv]
    q_spans: Spans
    k_spans: Spans
    config: AttentionConfig
    out: Tensor  # [Tq, H, Dv]
    lse: Tensor  # [Tq, H] float32

    @property
    def scale(self) -> float:
        """Multiplier of the scores."""
        given = self.config.scale
        return float(self.q.shape[-1] ** -0.5) if given is None else given

    @property
    def masked(self) -> bool:
        """Whether a key may be hidden from a query; a window hides later keys, too."""
        return self.config.causal or self.config.window is not None

    @property
    def uniform(self) -> bool:
        """Whether all sequences are of one length, as the rows of a batch are."""
        q_lengths = {end - start for start, end in self.q_spans}
        k_lengths = {end - start for start, end in self.k_spans}
        return len(q_lengths) == len(k_lengths) == 1 and 0 not in q_lengths | k_lengths


Work = Rotation | Attention
