"""Random parameters of each mistake, for the ropes to which the mistake applies."""

import random
from collections.abc import Callable
from typing import Any

from tests.diagnosis_oracle.mistakes import scaling_numbers
from tests.diagnosis_oracle.presets import Layer
from tests.diagnosis_oracle.rope import Rope

Parameters = dict[str, Any]


def choose(code: str, layer: Layer, rng: random.Random) -> Parameters | None:
    """Return parameters that a wrong rope may have; None if the mistake does not apply."""
    if layer.rotates == (code == "nope_layer_rotated"):
        return None
    return CHOICES[code](layer.rope, layer, rng)


def _always(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {}


def _swapped(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    names = {"half": ["interleaved"], "interleaved": ["half"]}
    return {"layout": rng.choice(names.get(rope.pairs, ["half", "interleaved"]))}


def _permuted(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    d, before = rope.rotary_dim, list(range(rope.start))
    after = list(range(rope.start + d, rope.head_dim))
    first = list(range(rope.start, rope.start + d))
    halves, neighbours = first[::2] + first[1::2], [0] * d
    neighbours[::2], neighbours[1::2] = first[: d // 2], first[d // 2 :]
    match rng.randrange(4):
        case 0:
            turned = rng.sample(first, d)
        case 1:
            turned = first[::-1]
        case 2:
            turned = neighbours if rope.pairs == "half" else halves
        case _:
            turned = first[d // 2 :] + first[: d // 2]
    return {"permutation": before + turned + after}


def _base(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    if rope.kind in ("ntk_alpha",):
        return None
    bases = [1e4, 5e5, 1e6, 1e5, 25_000.0, 150_000.0, 8e6, round(rng.uniform(5e3, 2e6))]
    theta = float(rng.choice(bases))
    return {"theta": theta} if abs(theta / rope.theta - 1) > 0.05 else None


def _scaled(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return None if rope.kind == "default" else {"rope_type": rope.kind}


def _other_type(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    kinds = [kind for kind in ("linear", "ntk", "yarn", "dynamic") if kind != rope.kind]
    kind = rng.choice(kinds)
    if rope.kind in ("default", "ntk_alpha") or scaling_numbers(rope, kind) is None:
        return None
    return {"rope_type": kind}


def _factor(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    right = rope.numbers.get("factor")
    factor = rng.choice([2.0, 4.0, 8.0, 16.0, 32.0, 40.0, round(rng.uniform(1.5, 60), 2)])
    if right is None or rope.kind == "longrope" or abs(factor / right - 1) < 0.05:
        return None
    return {"factor": factor}


def _trained(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    right = rope.numbers.get("original_max_position_embeddings")
    lengths = [rope.most, 2048, 4096, 8192, 32768, 131072, rng.randrange(1000, 50_000)]
    trained = rng.choice(lengths)
    if rope.kind not in ("yarn", "llama3") or not trained or abs(trained / right - 1) < 0.1:  # type: ignore[operator]
        return None
    return {"original_max_position_embeddings": trained}


def _truncate(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return None if rope.kind != "yarn" else {"truncate": not rope.numbers.get("truncate", True)}


def _beta(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {} if rope.kind == "yarn" else None


def _list(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {"list": "?"} if rope.kind == "longrope" else None


def _gain_missing(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {"gain": 1.0} if abs(rope.row(0)[1] - 1) > 0.02 else None


def _gain_twice(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    gain = rope.row(0)[1]
    return {"gain": gain**2} if abs(gain - 1) > 0.02 else None


def _gain_wrong(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    right = rope.row(0)[1]
    gain = rng.choice([1.1, 1.2, 1.5, 0.5, 0.8, 1.26, round(rng.uniform(0.5, 2.0), 4)])
    taken = any(abs(gain / other - 1) < 0.02 for other in (right, right**2, 1.0))
    return None if taken else {"gain": gain}


def _partial(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    if rope.rotary_dim == rope.head_dim or rope.kind == "longrope" or rope.scheme:
        return None
    return {"rotary_dim": rope.head_dim}


def _rotary_dim(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    d = 2 * rng.randrange(2, rope.head_dim // 2)
    if d in (rope.rotary_dim, rope.head_dim) or rope.kind == "longrope" or rope.scheme:
        return None
    return {"rotary_dim": d}


def _width(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    if rope.scheme == "axial":
        return None
    if rope.kind == "proportional":
        return {"width": int(rope.head_dim * rope.numbers["partial_rotary_factor"])}
    return None if rope.rotary_dim == rope.head_dim else {"width": rope.head_dim}


def _slice(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return None if rope.rotary_dim == rope.head_dim else {}


def _offset(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    offset = rng.choice([-1, 1, -1, 1, 2, -2, 7, 13, rng.randrange(3, 300), 5000])
    return {"offset": offset}


def _scale(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    if rope.kind == "linear" and rng.random() < 0.3:
        return {"scale": 1 / rope.numbers["factor"]}
    return {"scale": rng.choice([0.125, 0.25, 0.5, 2.0, 4.0, 8.0, 1 / 3])}


def _counted(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return None if rope.scheme else {}


def _along(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {"axis": rng.choice(["heads", "batch"])}


def _half(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {"dtype": rng.choice(["bfloat16", "float16"])}


def _several(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {} if rope.scheme else None


def _order(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    orders = [[0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]]
    return {"order": rng.choice(orders)} if rope.scheme else None


def _sections(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    if not (rope.scheme or "").startswith("mrope"):
        return None
    n = rope.rotary_dim // 2
    first = rng.choice([n // 4, n // 2, n // 8])
    second = (n - first) // 2
    other = (first, second, n - first - second)
    sections = list(rng.choice([rope.sections, other]))
    return {"mrope_section": sections}


def _layer_type(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    types = [name for name in layer.types if name != "4.57"]
    return {"layer_type": types[0]} if types else None


def _version(rope: Rope, layer: Layer, rng: random.Random) -> Parameters | None:
    return {"compat": "4.57"} if "4.57" in layer.types else None


CHOICES: dict[str, Callable[[Rope, Layer, random.Random], Parameters | None]] = {
    "not_rotated": _always,
    "rotated_twice": _always,
    "direction_reversed": _always,
    "layout_swapped": _swapped,
    "layout_mixed": _always,
    "layout_permuted": _permuted,
    "wrong_base": _base,
    "scaling_ignored": _scaled,
    "scaling_other_type": _other_type,
    "factor_wrong": _factor,
    "original_length_wrong": _trained,
    "truncate_wrong": _truncate,
    "beta_swapped": _beta,
    "longrope_other_list": _list,
    "gain_missing": _gain_missing,
    "gain_twice": _gain_twice,
    "gain_wrong": _gain_wrong,
    "partial_ignored": _partial,
    "rotary_dim_wrong": _rotary_dim,
    "exponent_width_wrong": _width,
    "slice_at_other_end": _slice,
    "position_offset": _offset,
    "position_scaled": _scale,
    "padding_counted": _counted,
    "axis_mistaken": _along,
    "positions_rounded": _half,
    "angles_rounded": _half,
    "axes_ignored": _several,
    "axes_order": _order,
    "sections_wrong": _sections,
    "layer_type_wrong": _layer_type,
    "nope_layer_rotated": _always,
    "config_of_other_version": _version,
}
