"""`/v1/compare`: what differs between two ropes, and from which position on that can be seen."""

from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from rope_core import compare
from service.endpoints.params import CompareParams
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.wire import Message, Parameters


def answer_compare(
    _tensors: Mapping[str, Tensor], params: CompareParams, resolver: RopeResolver
) -> Message:
    """Return what differs between two ropes.

    Raises:
        ConfigError: one of the two is no rope.
    """
    ropes = [
        ResolvedRope(None) if rope is None else resolver.resolve(rope, None, None, name)
        for name, rope in (("rope", params.rope), ("other", params.other))
    ]
    comparison = compare(ropes[0].source, ropes[1].source)
    warnings = dict.fromkeys(text for resolved in ropes for text in resolved.warnings)
    values = {
        "summary": comparison.summary,
        "same": comparison.same,
        "differences": [asdict(each) for each in comparison.differences],
        "angles": [asdict(each) for each in comparison.angles],
        "first_position": comparison.first_position,
        "warnings": [*warnings],
    }
    return Message(comparison.tensors, Parameters.of(values))
