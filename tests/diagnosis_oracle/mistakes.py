"""The mistakes of a rotation: each makes, of a right rope and of parameters, the wrong ropes.

Several wrong ropes where a code has several forms; parameters tell the numbers of the wrong rope.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tests.diagnosis_oracle.presets import Layer
from tests.diagnosis_oracle.rope import Rope

Wrong = list[Rope]
ORDER = [
    "not_rotated",
    "rotated_twice",
    "direction_reversed",
    "layout_swapped",
    "layout_mixed",
    "layout_permuted",
    "wrong_base",
    "scaling_ignored",
    "scaling_other_type",
    "factor_wrong",
    "original_length_wrong",
    "truncate_wrong",
    "beta_swapped",
    "longrope_other_list",
    "gain_missing",
    "gain_twice",
    "gain_wrong",
    "partial_ignored",
    "rotary_dim_wrong",
    "exponent_width_wrong",
    "slice_at_other_end",
    "position_offset",
    "position_scaled",
    "padding_counted",
    "axis_mistaken",
    "positions_rounded",
    "angles_rounded",
    "axes_ignored",
    "axes_order",
    "sections_wrong",
    "layer_type_wrong",
    "nope_layer_rotated",
    "config_of_other_version",
    "scale_wrong",
    "softmax_scale_missing_mscale",
    "q_not_rotated",
    "k_not_rotated",
    "v_rotated",
    "causal_top_left",
    "causal_missing",
    "window_off_by_one",
    "window_ignored",
    "chunk_ignored",
    "softcap_missing",
    "softcap_wrong",
    "sinks_missing",
    "mask_ignored",
    "heads_tiled",
    "lse_base_2",
    "lse_without_sink",
    "lse_shifted",
]
"""The codes of the contract, in its order."""

ROTATION = ORDER[: ORDER.index("config_of_other_version") + 1]
INVISIBLE_IN_TABLE = [
    "not_rotated",
    "rotated_twice",
    "layout_swapped",
    "layout_mixed",
    "layout_permuted",
    "slice_at_other_end",
    "axis_mistaken",
    "nope_layer_rotated",
]
IN_FREQUENCIES = [
    "wrong_base",
    "scaling_ignored",
    "scaling_other_type",
    "factor_wrong",
    "original_length_wrong",
    "truncate_wrong",
    "beta_swapped",
    "longrope_other_list",
    "partial_ignored",
    "rotary_dim_wrong",
    "exponent_width_wrong",
    "angles_rounded",
    "layer_type_wrong",
    "config_of_other_version",
]


def wrong(code: str, parameters: Mapping[str, Any], rope: Rope, layer: Layer) -> Wrong:
    """Return the ropes that have a mistake; none if the mistake does not apply."""
    return MAKERS[code](rope, dict(parameters), layer)


def _with(rope: Rope, **changes: Any) -> Wrong:
    return [replace(rope, **changes)]


def _reversed(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    gain = rope.row(0)[1]
    wrong = _with(rope, sign=-rope.sign)
    return wrong if gain in (0.0, 1.0) else wrong + _with(rope, sign=-rope.sign, gain=1 / gain)


def _mixed(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return [
        *_with(rope, columns="half" if rope.pairs != "half" else "interleaved"),
        *_with(
            rope,
            pairs="half" if rope.pairs != "half" else "interleaved",
            columns="half" if rope.pairs == "half" else "interleaved",
        ),
    ]


def _swapped(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, pairs=given["layout"])


def _permuted(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    order = tuple(given["permutation"])
    if rope.permutation is not None:
        order = tuple(rope.permutation[i] for i in order)
    return _with(rope, permutation=order)


def _number(rope: Rope, name: str, value: Any) -> Wrong:
    return _with(rope, numbers={**rope.numbers, name: value})


def scaling_numbers(rope: Rope, kind: str) -> dict[str, Any] | None:
    """Return the config's numbers as another variant reads them; None if one is missing."""
    most = rope.most or rope.numbers.get("max_position_embeddings")
    trained = rope.numbers.get("original_max_position_embeddings") or most
    factor = rope.numbers.get("factor")
    if factor is None and trained and most:
        factor = most / trained
    if factor is None:
        return None
    numbers = {"factor": factor, "original_max_position_embeddings": trained}
    numbers["max_position_embeddings"] = most
    if kind == "llama3":
        numbers |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if (kind == "yarn" and not trained) or (kind == "dynamic" and not most):
        return None
    return {**rope.numbers, **numbers}


def _other_type(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    numbers = scaling_numbers(rope, given["rope_type"])
    if numbers is None:
        return []
    return _with(rope, kind=given["rope_type"], numbers=numbers, gain=None)


def _beta(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    fast, slow = rope.numbers.get("beta_fast") or 32, rope.numbers.get("beta_slow") or 1
    return _with(rope, numbers={**rope.numbers, "beta_fast": slow, "beta_slow": fast})


def _trained(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _number(
        rope, "original_max_position_embeddings", given["original_max_position_embeddings"]
    )


def _list(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, other_list=True)


def _gain(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, gain=given["gain"])


def _rotary_dim(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    d = given["rotary_dim"]
    start = rope.head_dim - d if rope.start else 0
    return _with(rope, rotary_dim=d, start=start)


def _whole_head(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    if rope.kind == "proportional":
        return _with(rope, kind="default", numbers={})
    return _rotary_dim(rope, given, layer)


def _rounded_angles(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    names = ("frequencies_dtype", "angles_dtype")
    return [
        replace(rope, arithmetic=arithmetic, **{name: given["dtype"]})
        for arithmetic in ("float64", "float32")
        for name in names
    ]


def _axes_ignored(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return [*_with(rope, one_axis="first"), *_with(rope, one_axis="index")]


def _order(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    order = given["order"]
    inverse = tuple(order.index(axis) for axis in range(len(order)))
    return [*_with(rope, order=tuple(order)), *_with(rope, order=inverse)]


def _sections(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    sections = tuple(given["mrope_section"])
    other = {"mrope": "mrope_interleaved", "mrope_interleaved": "mrope"}.get(rope.scheme or "")
    ropes = [replace(rope, sections=sections)] if sections != rope.sections else []
    if other and 3 * max(sections[1:]) <= rope.rotary_dim // 2 + 2:
        ropes.append(replace(rope, scheme=other, sections=sections))
    return ropes


def _layer_type(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    other = layer.types[given["layer_type"]]
    return _with(rope, theta=other.theta, kind=other.kind, numbers=other.numbers, gain=None)


def _version(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    other = layer.types["4.57"]
    return _with(rope, theta=other.theta, kind=other.kind, numbers=other.numbers, gain=other.gain)


def _slice(rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, start=0 if rope.start else rope.head_dim - rope.rotary_dim)


def _times(times: int, rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, times=times)


def _field(name: str, parameter: str, rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _with(rope, **{name: given[parameter]})


def _parameter(name: str, rope: Rope, given: dict[str, Any], layer: Layer) -> Wrong:
    return _number(rope, name, given[name])


MAKERS: dict[str, Callable[[Rope, dict[str, Any], Layer], Wrong]] = {
    "not_rotated": partial(_times, 0),
    "rotated_twice": partial(_times, 2),
    "direction_reversed": _reversed,
    "layout_swapped": _swapped,
    "layout_mixed": _mixed,
    "layout_permuted": _permuted,
    "wrong_base": partial(_field, "theta", "theta"),
    "scaling_ignored": lambda rope, given, layer: _with(
        rope, kind="default", numbers={}, gain=None
    ),
    "scaling_other_type": _other_type,
    "factor_wrong": partial(_parameter, "factor"),
    "original_length_wrong": _trained,
    "truncate_wrong": partial(_parameter, "truncate"),
    "beta_swapped": _beta,
    "longrope_other_list": _list,
    "gain_missing": lambda rope, given, layer: _with(rope, gain=1.0),
    "gain_twice": lambda rope, given, layer: _with(rope, gain=rope.row(0)[1] ** 2),
    "gain_wrong": _gain,
    "partial_ignored": _whole_head,
    "rotary_dim_wrong": _rotary_dim,
    "exponent_width_wrong": partial(_field, "width", "width"),
    "slice_at_other_end": _slice,
    "position_offset": lambda rope, given, layer: _with(rope, offset=rope.offset + given["offset"]),
    "position_scaled": lambda rope, given, layer: _with(rope, scale=rope.scale * given["scale"]),
    "padding_counted": lambda rope, given, layer: _with(rope, counted=True),
    "axis_mistaken": partial(_field, "along", "axis"),
    "positions_rounded": partial(_field, "positions_dtype", "dtype"),
    "angles_rounded": _rounded_angles,
    "axes_ignored": _axes_ignored,
    "axes_order": _order,
    "sections_wrong": _sections,
    "layer_type_wrong": _layer_type,
    "nope_layer_rotated": partial(_times, 1),
    "config_of_other_version": _version,
}
