"""All known mistakes: importing this package registers them."""

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
