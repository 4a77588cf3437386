"""What a backend is given. Works are made by the library alone, from calls that are valid."""

from dataclasses import dataclass

from torch import Tensor

from rope_core.config import AttentionConfig, Layout


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
    """Attend within each sequence: rows of a batch, or spans of packed tokens."""

    q: Tensor  # [B, Sq, H, D], or packed [Tq, H, D]; rotated
    k: Tensor  # [B, Sk, Hkv, D], or packed [Tk, Hkv, D]; rotated
    v: Tensor  # [B, Sk, Hkv, Dv], or packed [Tk, Hkv, Dv]
    config: AttentionConfig
    spans: list[tuple[slice, slice]] | None  # queries and keys of each packed sequence

    @property
    def scale(self) -> float:
        """Multiplier of the scores."""
        given = self.config.scale
        return float(self.q.shape[-1] ** -0.5) if given is None else given

    @property
    def masked(self) -> bool:
        """Whether a key may be hidden from a query; a window hides later keys, too."""
        return self.config.causal or self.config.window is not None


Work = Rotation | Attention
