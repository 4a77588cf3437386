"""Rotary position embedding, and attention over what it rotates.

Axis names: B batch, S sequence, T tokens of packed sequences, H query heads, Hkv key/value heads,
D head_dim, Dv width of a value. A pair of elements rotates by position * theta ** (-2i / D).
"""

from rope_core.attention import attend
from rope_core.calls import (
    Attend,
    Attended,
    Call,
    CosSin,
    Merge,
    Result,
    Rotate,
    Rotated,
    Shift,
    Table,
)
from rope_core.config import AttentionConfig, Layout, RopeConfig
from rope_core.errors import ConfigError, NoBackend, RopeError, ShapeError
from rope_core.frequencies import inv_freq
from rope_core.merge import merge
from rope_core.rotary import cos_sin, rotate, shift

__all__ = [
    "Attend",
    "Attended",
    "AttentionConfig",
    "Call",
    "ConfigError",
    "CosSin",
    "Layout",
    "Merge",
    "NoBackend",
    "Result",
    "RopeConfig",
    "RopeError",
    "Rotate",
    "Rotated",
    "ShapeError",
    "Shift",
    "Table",
    "attend",
    "cos_sin",
    "inv_freq",
    "merge",
    "rotate",
    "shift",
]
