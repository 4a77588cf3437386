"""From ranked candidates to explanations: texts, remedies, and a rope with the same numbers."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rope_core.config import DEFAULT_THETA, RopeConfig
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.ranking import Candidate
from rope_core.diagnosis.result import Explanation, NamedMistake
from rope_core.errors import ConfigError
from rope_core.own_frequencies import LISTS

CHANGES_OF_ROPE = ("rope", "positions", "times", "gain", "frequencies_dtype", "arithmetic_dtype")
"""Fields of a call that parameters of a rope can express, or that make no difference."""


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
                    code=code,
                    parameters=dict(given),
                    text=_text(code, given, right, {**_right_width(candidate), **expected}),
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

    None if no rope does: the call has no rotation, or positions, roundings or an order of channels
    that a rope cannot have.
    """
    plain = RotaryCall(rope=call.rope, positions=right.positions, shape=right.shape)
    differs = any(
        getattr(call, name) != getattr(plain, name)
        for name in RotaryCall.__dataclass_fields__
        if name not in CHANGES_OF_ROPE
    )
    scale = _scale_of_positions(call.positions, right.positions)
    rope = call.rope
    moves = rope.layout == "interleaved_to_half" or not rope.is_rotation
    if differs or scale is None or call.times == 0 or (call.times == 2 and moves):
        return None
    gain = rope.attention_scaling if call.gain is None else call.gain
    scale, gain = scale * call.times, gain**call.times
    with suppress(ConfigError):
        if scale != 1 or call.frequencies_dtype is not None:
            rope = _with_frequencies(call, scale, gain)
        elif gain != rope.attention_scaling:
            rope = _with_gain(call, gain)
        if math.isclose(rope.attention_scaling, gain):
            return rope_parameters(rope)
    return None


def _scale_of_positions(positions: Tensor, right: Tensor) -> float | None:
    """Return the number by which the right positions are multiplied; None if there is none."""
    if positions.shape != right.shape:
        return None
    if positions.equal(right):
        return 1.0
    largest = float(right.abs().max())
    scale = float(positions.abs().max()) / largest if largest else 0.0
    is_scaled = scale > 0 and torch.allclose(positions, right * scale, rtol=1e-12, atol=0)
    return scale if is_scaled else None


def _with_gain(call: RotaryCall, gain: float) -> RopeConfig:
    """Return the rope with another attention scaling.

    Raises:
        ConfigError: no rope has it.
    """
    rope = call.rope
    if rope.rope_type not in ("yarn", "longrope", *LISTS):
        return _with_frequencies(call, 1.0, gain)
    given = {**dict(rope.parameters), "attention_factor": gain}
    changed = replace(rope, parameters=tuple(given.items()))
    if changed.attention_scaling != gain:  # short_mscale and long_mscale come first
        return _with_frequencies(call, 1.0, gain)
    return changed


def _with_frequencies(call: RotaryCall, scale: float, gain: float) -> RopeConfig:
    """Return the rope with scaled or rounded frequencies, and an attention scaling.

    Raises:
        ConfigError: no rope has them.
    """
    rope, row = call.rope, call.rope.inv_freq
    if rope.rope_type == "default" and gain == 1 and call.frequencies_dtype is None:
        return replace(rope, rope_type="linear", parameters=(("factor", 1 / scale),))
    if rope.axes is not None or rope.rope_type == "xpos" or len(row) != rope.half:
        raise ConfigError("inv_freq", "that of a rope of one axis", rope.rope_type)
    if call.frequencies_dtype is not None:
        row = rope.frequency_table.inv_freq.to(call.frequencies_dtype).double()
    given: dict[str, Any] = {"inv_freq": tuple((row * scale).tolist()), "attention_factor": gain}
    changed: dict[str, Any] = {"rope_type": "inv_freq", "theta": DEFAULT_THETA}
    return replace(rope, **changed, frequency_dim=None, parameters=tuple(given.items()))


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


def _right_width(candidate: Candidate) -> dict[str, int]:
    """Return the right width of exponents if another number of channels rotates."""
    for _, given in candidate.mistakes:
        if "rotary_dim" in given:
            return {"width": given["rotary_dim"]}
    return {}


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
