"""Reads a model's config.json as Hugging Face's libraries read it. Start with resolve.py."""

from rope_core.hf.heads import Heads, read_heads
from rope_core.hf.layer_types import Layers
from rope_core.hf.lengths import Lengths
from rope_core.hf.resolve import COMPATS, LayerKind, Resolved, resolve

__all__ = [
    "COMPATS",
    "Heads",
    "LayerKind",
    "Layers",
    "Lengths",
    "Resolved",
    "read_heads",
    "resolve",
]
