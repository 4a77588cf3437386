"""Rotary position embedding, and attention with it.

Axis names: B batch, S sequence, T tokens of packed sequences, H query heads, Hkv key/value heads,
D head_dim, Dv width of a value, A axes of a position. `resolve` reads a model's config.json.
"""

from rope_core.axes import SCHEMES
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
from rope_core.comparison.compare import Comparison, compare
from rope_core.config import Arithmetic, AttentionConfig, Layout, RopeConfig, Rounding
from rope_core.diagnosis.diagnose import diagnose
from rope_core.diagnosis.result import Diagnosis
from rope_core.errors import ConfigError, NoBackend, RopeError, ShapeError
from rope_core.frequencies import VARIANTS
from rope_core.functional import RopeWarning, attend, rotate
from rope_core.hf import LayerKind, Resolved
from rope_core.layouts import convert, convert_weight
from rope_core.length import DynamicLength
from rope_core.merge import merge
from rope_core.rotary import cos_sin, shift
from rope_core.sentences import model_summary, summary
from rope_core.sources import layer_kinds, resolve

__all__ = [
    "SCHEMES",
    "VARIANTS",
    "Arithmetic",
    "Attend",
    "Attended",
    "AttentionConfig",
    "Call",
    "Comparison",
    "ConfigError",
    "CosSin",
    "Diagnosis",
    "DynamicLength",
    "LayerKind",
    "Layout",
    "Merge",
    "NoBackend",
    "Resolved",
    "Result",
    "RopeConfig",
    "RopeError",
    "RopeWarning",
    "Rotate",
    "Rotated",
    "Rounding",
    "ShapeError",
    "Shift",
    "Table",
    "attend",
    "compare",
    "convert",
    "convert_weight",
    "cos_sin",
    "diagnose",
    "layer_kinds",
    "merge",
    "model_summary",
    "resolve",
    "rotate",
    "shift",
    "summary",
]
