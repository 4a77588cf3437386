"""From which length of a call on the rotation of a variant changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rope_core.ntk_variants import doublings
from rope_core.registry import Parameters


@dataclass(frozen=True, slots=True)
class LengthDependence:
    """From which length of a call on a rotation changes, and how."""

    above: int
    """Calls of up to this length rotate alike."""

    parameter: str | None
    """The parameter that has this length; None if the variant has no such parameter."""

    change: str
    """What changes for longer calls, in words."""

    is_minimum: bool = False
    """Whether shorter calls take this length instead of their own."""

    longer_calls: Literal["differ", "alike", "alike_up_to_doublings"] = "differ"
    """Which longer calls rotate alike: none, all, or those of up to 2, 4, 8, ... times `above`."""

    def canonical(self, length: int) -> int:
        """Return one length for all lengths with the same rotation."""
        if length <= self.above:
            return self.above
        match self.longer_calls:
            case "alike":
                return self.above + 1
            case "alike_up_to_doublings":
                return int(self.above * 2 ** doublings(self.above, length))
        return length


def length_dependence(rope_type: str, parameters: Parameters) -> LengthDependence:
    """Return how a variant with a parameter `length` depends on the length of a call."""
    rule = _RULES.get(rope_type)
    if rule is None:
        return LengthDependence(0, None, "the rotation differs at each length")
    return rule(dict(parameters))


def _dynamic(parameters: Mapping[str, Any]) -> LengthDependence:
    name = "max_position_embeddings"
    change = "the base grows with each longer length"
    if parameters.get("alpha") is not None:
        change += ", and alpha has no effect"
    return LengthDependence(int(parameters[name]), name, change, is_minimum=True)


def _dynamic_alpha(parameters: Mapping[str, Any]) -> LengthDependence:
    name = "original_max_position_embeddings"
    change = f"the base grows when the length passes {name}, and 2, 4, 8, ... times of that"
    return LengthDependence(
        int(parameters[name]), name, change, longer_calls="alike_up_to_doublings"
    )


def _longrope(parameters: Mapping[str, Any]) -> LengthDependence:
    name = "original_max_position_embeddings"
    change = "all positions have the frequencies of long_factor, the same at each longer length"
    return LengthDependence(int(parameters[name]), name, change, longer_calls="alike")


def _xpos(_: Mapping[str, Any]) -> LengthDependence:
    change = "the scale of q and k is centred at length // 2; the frequencies do not change"
    return LengthDependence(1, None, change)


_RULES: Mapping[str, Callable[[Mapping[str, Any]], LengthDependence]] = {
    "dynamic": _dynamic,
    "dynamic_alpha": _dynamic_alpha,
    "longrope": _longrope,
    "xpos": _xpos,
}
