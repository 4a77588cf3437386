"""From ranked candidates to explanations: texts, remedies, and a rope that reproduces theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from rope_core.config import DEFAULT_THETA, RopeConfig
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.ranking import Candidate
from rope_core.diagnosis.result import Explanation, NamedMistake


def explain(
    ranked: Sequence[Candidate],
    right: RotaryCall | None,
    *,
    is_rotation: bool = True,
    expected: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Explanation, ...]:
    """Return the explanations of candidates that `rank` has ordered.

    Args:
        ranked: candidates with mistakes.
        right: the call without mistakes, for the right values in texts.
            None if nothing rotates.
        is_rotation: whether the candidates' calls are `RotaryCall`, which a rope may reproduce.
        expected: more right values for texts.
    """
    return tuple(
        Explanation(
            mistakes=tuple(
                NamedMistake(
                    code=code, parameters=dict(given), text=_text(code, given, right, expected)
                )
                for code, given in candidate.mistakes
            ),
            relative_error=candidate.relative_error,
            remedy=" ".join(dict.fromkeys(MISTAKES[code].remedy for code, _ in candidate.mistakes)),
            rope=reproducing_rope(candidate.call, right) if is_rotation and right else None,
        )
        for candidate in ranked
    )


def reproducing_rope(call: RotaryCall, right: RotaryCall) -> Mapping[str, Any] | None:
    """Return parameters of the rope that rotates as `call` does at the given positions.

    None if no rope does: the call has other positions, roundings, an order of channels or a number
    of rotations that a rope cannot have.
    """
    plain = RotaryCall(rope=call.rope, positions=right.positions, shape=right.shape)
    differs = any(
        getattr(call, name) != getattr(plain, name)
        for name in RotaryCall.__dataclass_fields__
        if name not in ("rope", "positions", "gain", "arithmetic_dtype")
    )
    same_positions = call.positions.shape == right.positions.shape and bool(
        (call.positions == right.positions).all()
    )
    if differs or not same_positions:
        return None
    rope = call.rope
    if call.gain is not None and call.gain != rope.attention_scaling:
        given = {**dict(rope.parameters), "attention_factor": call.gain}
        changed: dict[str, Any] = {}
        if rope.rope_type == "default" and rope.axes is None and rope.frequency_dim is None:
            given["inv_freq"] = tuple(rope.inv_freq.tolist())
            changed = {"rope_type": "inv_freq", "theta": DEFAULT_THETA}
        elif rope.rope_type not in ("yarn", "longrope", "inv_freq", "freq_factors"):
            return None
        rope = replace(rope, parameters=tuple(given.items()), **changed)
        if rope.attention_scaling != call.gain:
            return None
    return rope_parameters(rope)


def rope_parameters(rope: RopeConfig) -> dict[str, Any]:
    """Return the parameters of a rope as `resolve` takes them, without defaults."""
    default = RopeConfig(head_dim=rope.head_dim)
    fields = {
        name: getattr(rope, name)
        for name, field in RopeConfig.__dataclass_fields__.items()
        if field.compare and name not in ("parameters", "axes_parameters")
    }
    given = {
        name: value
        for name, value in fields.items()
        if name in ("head_dim", "theta", "arithmetic", "rounding")
        or value != getattr(default, name)
    }
    if rope.rope_type == "inv_freq":
        del given["theta"]
    values = {**given, **dict(rope.parameters), **dict(rope.axes_parameters)}
    return {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def _text(
    code: str, given: Mapping[str, Any], right: RotaryCall | None, expected: Mapping[str, Any]
) -> str:
    if right is not None:
        rope = right.rope
        expected = {
            **dict(rope.parameters),
            **dict(rope.axes_parameters),
            "theta": rope.theta,
            "layout": rope.layout,
            "rotary_dim": rope.rotary_dim,
            "rope_type": rope.rope_type,
            "gain": rope.attention_scaling,
            "width": rope.frequency_dim or rope.rotary_dim,
            **expected,
        }
    values = _Values({f"expected_{name}": _brief(value) for name, value in expected.items()})
    values.update({name: _brief(value) for name, value in given.items()})
    return MISTAKES[code].text.format_map(values)


class _Values(dict[str, Any]):
    """Values of a template; a name without a value is told as such."""

    def __missing__(self, name: str) -> str:
        return "none"


def _brief(value: Any) -> Any:
    """Return a number with six digits, and a long list by its beginning."""
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"[{', '.join(str(item) for item in value[:8])}, ...]"
    return value
