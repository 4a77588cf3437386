"""What a cache stores: frozen values, valid once they exist."""

from dataclasses import dataclass
from typing import Literal

import torch

from rope_core.config import AttentionConfig, RopeConfig

KVDtype = Literal["same", "e4m3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that are stored, rotated and attended to alike.

    Raises:
        ConfigError: a field is out of its range, attention is not causal where it must be, the
            rope depends on a length that is not fixed, rotates values or needs learned frequencies.
    """

    layers: tuple[int, ...]
    """Indices of the layers; all groups together have 0 to L - 1, each once."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    rope: RopeConfig | None
    """None: nothing rotates (NoPE)."""

    attention: AttentionConfig
    sinks: tuple[tuple[float, ...], ...] | None = None
    """A score of each head that joins the softmax without a value, `[layers of the group][heads]`."""

    rollback: int = 64
    """Tokens behind a window that are kept, so that a truncation finds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVConfig:
    """Everything that decides what a cache stores and how it answers.

    Raises:
        ConfigError: the layers of the groups are not 0 to L - 1, each once; or another field.
    """

    groups: tuple[KVGroup, ...]
    dtype: torch.dtype
    """Of q, k, v and out."""

    kv_dtype: KVDtype = "same"
    """Of stored keys and values."""

    @property
    def num_layers(self) -> int:
        """Number of layers of all groups."""
        return sum(len(group.layers) for group in self.groups)
