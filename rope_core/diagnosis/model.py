"""A rope in any form, resolved, and resolved again with other options."""

from collections.abc import Callable, Mapping
from typing import Any

from rope_core.diagnosis.calls import Clues
from rope_core.errors import ConfigError
from rope_core.hf import Resolved
from rope_core.sources import FORMS, OBJECT_FORMS, RopeSource, resolve


def model_clues(rope: RopeSource | None, head_dim: int | None, num_axes: int | None) -> Clues:
    """Resolve the rope, and keep how to resolve other layers of the same model."""
    if rope is None:
        raise ConfigError("rope", FORMS, "none")
    widths_of_heads: dict[str, Any] = {"head_dim": head_dim, "num_axes": num_axes}
    resolved = resolve(rope, **widths_of_heads)
    again: Callable[..., Resolved] | None = None
    if resolved.model_type and not isinstance(rope, Resolved):

        def resolve_other(**options: Any) -> Resolved:
            if isinstance(rope, Mapping) and any(form in rope for form in OBJECT_FORMS):
                named = {"layer", "layer_type"} & options.keys()
                kept = {
                    name: value
                    for name, value in rope.items()
                    if not (named and name in ("layer", "layer_type"))
                }
                return resolve({**kept, **options}, **widths_of_heads)
            return resolve(rope, **widths_of_heads, **options)

        again = resolve_other
    return Clues(resolved=resolved, resolve=again)
