"""Configurations of caches: how groups of layers are stored, rotated and attended to."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rope:
    """A rotation of the default kind, or M-RoPE where there are sections."""

    theta: float = 10_000.0
    rotary_dim: int | None = None
    layout: str = "half"
    sections: tuple[int, int, int] | None = None

    @property
    def num_axes(self) -> int:
        return 3 if self.sections else 1

    def rotate(self, heads: Array, positions: Array) -> Array:
        """Rotate `[n, H, D]` at positions `[n, A]`."""
        dim = self.rotary_dim or heads.shape[-1]
        pairs = dim // 2
        inv_freq = self.theta ** (-2.0 * np.arange(pairs) / dim)
        if self.sections:
            axis = np.repeat(np.arange(3), self.sections)
        else:
            axis = np.zeros(pairs, dtype=int)
        angles = positions[:, axis] * inv_freq
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        if self.layout == "half":
            first, second = slice(0, pairs), slice(pairs, dim)
        else:
            first, second = slice(0, dim, 2), slice(1, dim, 2)
        out = heads.copy()
        x, y = heads[..., first], heads[..., second]
        out[..., first] = x * cos - y * sin
        out[..., second] = x * sin + y * cos
        return out

    def members(self) -> dict[str, Any]:
        """Return the parameters as the service reads them."""
        members: dict[str, Any] = {"theta": self.theta, "layout": self.layout}
        if self.rotary_dim:
            members["rotary_dim"] = self.rotary_dim
        if self.sections:
            members |= {"axes": "mrope", "mrope_section": [*self.sections]}
        return members


@dataclass(frozen=True)
class Group:
    layers: tuple[int, ...]
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 8
    value_dim: int = 8
    rope: Rope | None = field(default_factory=Rope)
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    scale: float | None = None
    sinks: tuple[float, ...] | None = None
    """One a head, for all layers."""
    rollback: int = 64

    def members(self) -> dict[str, Any]:
        attention = {
            name: getattr(self, name)
            for name in ("causal", "window", "chunk", "softcap", "scale")
            if getattr(self, name) is not None
        }
        members: dict[str, Any] = {
            "layers": [*self.layers],
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rope": self.rope.members() if self.rope else None,
            "attention": attention,
            "rollback": self.rollback,
        }
        if self.value_dim != self.head_dim:
            members["value_dim"] = self.value_dim
        if self.sinks:
            members["sinks"] = [*self.sinks]
        return members


@dataclass(frozen=True)
class Configuration:
    groups: tuple[Group, ...]
    dtype: str = "float32"

    @property
    def num_layers(self) -> int:
        return sum(len(group.layers) for group in self.groups)

    @property
    def num_axes(self) -> int:
        return max(group.rope.num_axes if group.rope else 1 for group in self.groups)

    def group(self, layer: int) -> Group:
        return next(group for group in self.groups if layer in group.layers)

    def members(self) -> dict[str, Any]:
        return {"groups": [group.members() for group in self.groups], "dtype": self.dtype}
