"""Sentences about a resolved rope: how much of a head turns, how fast, and in which layers."""

from collections.abc import Sequence

from rope_core.hf import LayerKind, Resolved


def summary(resolved: Resolved) -> str:
    """Return two or three sentences about the rotation of one layer.

    Without a layer where layers differ, they are about the layers that rotate.
    """
    raise NotImplementedError


def model_summary(kinds: Sequence[LayerKind]) -> str:
    """Return the sentences about all layers of a model: those of `summary` for each kind."""
    raise NotImplementedError
