"""`/v1/compare`: what differs between two ropes, and from which position on that can be seen."""

from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from rope_core import compare
from rope_core.own_frequencies import listed_rotary_dim
from service.endpoints.params import CompareParams
from service.endpoints.rope_params import AnyRope, Rope
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.wire import Message, Parameters


def answer_compare(
    _tensors: Mapping[str, Tensor], params: CompareParams, resolver: RopeResolver
) -> Message:
    """Return what differs between two ropes.

    Raises:
        ConfigError: one of the two is no rope.
    """
    ropes = {"rope": params.rope, "other": params.other}
    resolved: dict[str, ResolvedRope] = {}
    for name in sorted(ropes, key=lambda name: _lacks_width(ropes[name])):
        rope = ropes[name]
        widths = [each.config.head_dim for each in resolved.values() if each.config is not None]
        head_dim = widths[0] if widths and _lacks_width(rope) else None
        resolved[name] = (
            ResolvedRope(None) if rope is None else resolver.resolve(rope, head_dim, None, name)
        )
    comparison = compare(resolved["rope"].source, resolved["other"].source)
    warnings = dict.fromkeys(text for name in ropes for text in resolved[name].warnings)
    values = {
        "summary": comparison.summary,
        "same": comparison.same,
        "differences": [asdict(each) for each in comparison.differences],
        "angles": [asdict(each) for each in comparison.angles],
        "first_position": comparison.first_position,
        "permutation": comparison.permutation and [*comparison.permutation],
        "warnings": [*warnings],
    }
    return Message(comparison.tensors, Parameters.of(values))


def _lacks_width(rope: AnyRope | None) -> bool:
    """Tell whether a rope is one of parameters that takes the head_dim of the other rope."""
    if not isinstance(rope, Rope) or rope.head_dim is not None:
        return False
    return listed_rotary_dim(rope.model_extra or {}) is None
