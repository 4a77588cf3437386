"""Reading a model's own config.json, as Hugging Face's libraries read it."""

from rope_core.hf.layers import Layers
from rope_core.hf.resolve import COMPATS, Resolved, resolve

__all__ = ["COMPATS", "Layers", "Resolved", "resolve"]
