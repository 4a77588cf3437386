"""All known mistakes: importing this package registers them."""

from rope_core.diagnosis.mistake import MISTAKES
from rope_core.diagnosis.mistakes import (
    application,
    attention,
    axes,
    base,
    gains,
    models,
    positions,
    scaling,
    structure,
)

__all__ = [
    "MISTAKES",
    "application",
    "attention",
    "axes",
    "base",
    "gains",
    "models",
    "positions",
    "scaling",
    "structure",
]
