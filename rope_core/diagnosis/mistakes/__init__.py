"""All known mistakes: each is a function of one of these modules."""

from collections.abc import Mapping

from rope_core.diagnosis.mistake import Mistake
from rope_core.diagnosis.mistakes import (
    application,
    attention,
    axes,
    base,
    gains,
    masks,
    models,
    positions,
    scaling,
    structure,
)

MODULES = (
    *(application, attention, masks, axes, base, gains, models, positions, scaling, structure),
)

MISTAKES: Mapping[str, Mistake] = {
    found.code: found
    for module in MODULES
    for found in vars(module).values()
    if isinstance(found, Mistake)
}
"""Known mistakes by code."""
