"""Random evidence of attention."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.diagnosis_oracle import inputs
from tests.diagnosis_oracle.attention import Inputs, Port, attend, tolerance_of
from tests.diagnosis_oracle.cases import VISIBLE, Draw, Truth
from tests.diagnosis_oracle.choices import choose
from tests.diagnosis_oracle.frequencies import yarn_magnitude
from tests.diagnosis_oracle.mistakes import ORDER, ROTATION, wrong
from tests.diagnosis_oracle.presets import Layer
from tests.diagnosis_oracle.rope import DTYPES, Array

ATTENTION = ORDER[ORDER.index("scale_wrong") :]
OF_ROPES = [
    code for code in ROTATION if code not in ("axis_mistaken", "padding_counted", "layout_permuted")
]
"""Mistakes of a rotation that attention shows, made on q and k alike."""

CODES = [*OF_ROPES, *ATTENTION]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionCase:
    """Attention, and what is wrong with it."""

    layer: Layer
    port: Port
    """The right one."""

    given: Inputs
    truth: Truth
    dtype: str
    evidence: Mapping[str, Array]
    arguments: Mapping[str, Any]
    description: str

    @property
    def tolerance(self) -> float:
        """Relative error that is certainly no difference."""
        return tolerance_of(self.dtype)

    def ports(self, mistakes: Truth) -> list[Port]:
        """Return the ports that have all these mistakes, in each order."""
        found: list[Port] = []
        for order in itertools.permutations(mistakes):
            ports = [self.port]
            for code, given in order:
                ports = [
                    other for port in ports for other in wrong_port(code, given, port, self.layer)
                ]
            found += ports
        return found

    def distance(self, port: Port) -> float:
        """Return the greater relative error of `out` and `lse` from what a port gives."""
        numbers = attend(port, self.given)
        errors = []
        for name, theirs in self.evidence.items():
            norm = np.linalg.norm(numbers[name])
            off = np.linalg.norm(theirs.astype(np.float64) - numbers[name])
            errors.append(off / norm if norm else float("inf"))
        return float(max(errors))

    def replay(self, mistakes: Truth) -> float:
        """Return how far the evidence is from the nearest port that has these mistakes."""
        return min((self.distance(port) for port in self.ports(mistakes)), default=np.inf)


def wrong_port(code: str, given: Mapping[str, Any], port: Port, layer: Layer) -> list[Port]:
    """Return the ports that have a mistake; none if the mistake does not apply."""
    if code == "config_of_other_version" and layer.name.startswith("deepseek-v2"):
        return [replace(port, scale=port.scale / (_mscale(layer) or 1.0))]
    if code in MAKERS:
        return MAKERS[code](port, given)
    sides = [given["side"]] if "side" in given else ["q", "k"]
    changed = {side: wrong(code, given, getattr(port, side), layer) for side in sides}
    several = zip(*changed.values(), strict=True)
    return [replace(port, **dict(zip(sides, ropes, strict=True))) for ropes in several]


def _window(port: Port, given: Mapping[str, Any]) -> list[Port]:
    assert port.window is not None
    change = given["window"] - port.window
    ports = [replace(port, window=given["window"])]
    if port.ahead is not None:
        ports.append(replace(port, window=given["window"], ahead=port.ahead + change))
        ports.append(replace(port, ahead=port.ahead + change))
    return ports


MAKERS: dict[str, Callable[[Port, Mapping[str, Any]], list[Port]]] = {
    "scale_wrong": lambda port, given: [replace(port, scale=given["scale"])],
    "softmax_scale_missing_mscale": lambda port, given: [replace(port, scale=given["scale"])],
    "q_not_rotated": lambda port, given: [replace(port, q=replace(port.q, times=0))],
    "k_not_rotated": lambda port, given: [replace(port, k=replace(port.k, times=0))],
    "v_rotated": lambda port, given: [replace(port, rotates_v=True)],
    "causal_top_left": lambda port, given: [replace(port, causal="top_left")],
    "causal_missing": lambda port, given: [replace(port, causal=None)],
    "window_off_by_one": _window,
    "window_ignored": lambda port, given: [replace(port, window=None)],
    "chunk_ignored": lambda port, given: [replace(port, chunk=None)],
    "softcap_missing": lambda port, given: [replace(port, softcap=None)],
    "softcap_wrong": lambda port, given: [replace(port, softcap=given["softcap"])],
    "sinks_missing": lambda port, given: [replace(port, sinks=None)],
    "mask_ignored": lambda port, given: [replace(port, mask=None)],
    "heads_tiled": lambda port, given: [replace(port, tiled=True)],
    "lse_base_2": lambda port, given: [replace(port, lse_base_2=True)],
    "lse_without_sink": lambda port, given: [replace(port, lse_counts_sinks=False)],
    "lse_shifted": lambda port, given: [replace(port, lse_shift=given["shift"])],
}


def choose_for(code: str, port: Port, layer: Layer, rng: random.Random) -> dict[str, Any] | None:
    """Return parameters of a mistake; None if the mistake does not apply."""
    if code == "position_offset":
        found = choose(code, layer, rng)
        return None if found is None else {**found, "side": rng.choice("qk")}
    if code not in MAKERS:
        return _of_rope(code, layer, rng)
    mscale = _mscale(layer)
    scales = [port.scale * rng.choice([0.5, 2.0, 0.8, 1.25]), 1.0, port.q.head_dim**-0.5]
    window = (port.window or 2) + rng.choice([-1, 1])
    parameters: dict[str, tuple[object, dict[str, Any]]] = {
        "scale_wrong": (True, {"scale": float(rng.choice(scales))}),
        "softmax_scale_missing_mscale": (mscale, {"scale": port.scale / (mscale or 1.0)}),
        "q_not_rotated": (layer.rotates, {}),
        "k_not_rotated": (layer.rotates, {}),
        "v_rotated": (layer.rotates and not layer.attention.width, {}),
        "causal_top_left": (port.causal and port.window is None and port.chunk is None, {}),
        "causal_missing": (port.causal, {}),
        "window_off_by_one": (port.window and window, {"window": window}),
        "window_ignored": (port.window, {}),
        "chunk_ignored": (port.chunk, {}),
        "softcap_missing": (port.softcap, {}),
        "softcap_wrong": (port.softcap, {"softcap": float(rng.choice([1.0, 2.0, 30.0, 5.0]))}),
        "sinks_missing": (port.sinks is not None, {}),
        "mask_ignored": (port.mask is not None, {}),
        "heads_tiled": (True, {}),
        "lse_base_2": (True, {}),
        "lse_without_sink": (port.sinks is not None, {}),
        "lse_shifted": (True, {"shift": float(rng.choice([0.5, -1.0, np.log(2), 3.0]))}),
    }
    applies, found = parameters[code]
    return found if applies else None


def _of_rope(code: str, layer: Layer, rng: random.Random) -> dict[str, Any] | None:
    """Return parameters of a mistake of the rotation.

    A gain of the whole head is a scale of the scores, and a slice of MLA has one place only.
    """
    whole = layer.rope.rotary_dim == layer.rope.head_dim
    is_mla = layer.attention.width > layer.rope.head_dim
    geometry = ("partial_ignored", "rotary_dim_wrong", "exponent_width_wrong", "slice_at_other_end")
    is_scale = code == "gain_wrong" and whole and not is_mla
    if is_scale or (is_mla and code in geometry):
        return None
    return choose(code, layer, rng)


def _mscale(layer: Layer) -> float | None:
    """Return the factor of the softmax scale that YaRN's mscale_all_dim asks for."""
    every = layer.rope.numbers.get("mscale_all_dim")
    if not layer.attention.has_mscale or not every:
        return None
    return yarn_magnitude(layer.rope.numbers["factor"], every) ** 2


def attention_case(draw: Draw, codes: Sequence[str], rng: random.Random) -> AttentionCase | None:
    """Return a case with these mistakes; None if they do not show in what was drawn."""
    layer = draw.layer(rng)
    case = _right(layer, draw, codes, rng)
    truth = []
    for code in codes:
        parameters = choose_for(code, case.port, layer, rng)
        if parameters is None:
            return None
        truth.append((code, parameters))
    if "longrope_other_list" in codes:
        trained = layer.rope.numbers["original_max_position_embeddings"]
        name = "short" if case.given.k_positions.max() >= trained else "long"
        known: dict[str, Any] = {**dict(truth), "longrope_other_list": {"list": name}}
        truth = [*known.items()]
    case = replace(case, truth=tuple(truth))
    ports = case.ports(case.truth)
    if not ports:
        return None
    numbers = attend(rng.choice(ports), case.given)
    if not any(code.startswith("lse") for code in codes) and rng.random() < 0.6:
        del numbers["lse"]
    evidence = {name: x.astype(DTYPES[case.dtype]) for name, x in numbers.items()}
    if "lse" in evidence:
        evidence["lse"] = numbers["lse"].astype(np.float32)
    if not all(np.isfinite(x).all() for x in evidence.values()):
        return None
    case = replace(case, evidence=evidence, arguments=_arguments(case, evidence, rng))
    return case if shows(case) else None


def shows(case: AttentionCase) -> bool:
    """Say whether no fewer mistakes explain a case."""
    fewer = [()] if len(case.truth) == 1 else [(), *((one,) for one in case.truth)]
    if case.replay(case.truth) > case.tolerance / 2:
        return False
    return not case.truth or all(case.replay(some) > VISIBLE * case.tolerance for some in fewer)


def _right(layer: Layer, draw: Draw, codes: Sequence[str], rng: random.Random) -> AttentionCase:
    arrays = inputs.seeded(rng)
    dtype = rng.choice(draw.dtypes)
    rows, keys = rng.choice([1, 1, 2]), rng.choice([16, 32, 64, 96])
    queries = rng.choice([keys, keys, 1, keys // 2, 8])
    if "causal_top_left" in codes:
        queries = rng.choice([1, keys // 2, 8])
    several = layer.rope.scheme is not None
    packed = not several and rows == 1 and rng.random() < 0.15
    queries = keys if packed else queries
    num_kv_heads = rng.choice([1, 2, 4])
    num_heads = num_kv_heads * rng.choice([1, 2, 4])
    if "heads_tiled" in codes:
        num_kv_heads, num_heads = 2, 8
    width = layer.attention.width or layer.rope.head_dim
    value_width = layer.attention.value_width or layer.rope.head_dim
    strength = rng.choice([1.0, 2.0])
    q = strength * arrays.standard_normal((rows, queries, num_heads, width))
    k = arrays.standard_normal((rows, keys, num_kv_heads, width))
    v = arrays.standard_normal((rows, keys, num_kv_heads, value_width))
    q, k, v = (x.astype(DTYPES[dtype]).astype(np.float64) for x in (q, k, v))
    if several:
        at = inputs.three_axes(rows, keys, arrays)
    else:
        start = rng.choice([0, 0, 0, 1000, 20_000])
        at = np.broadcast_to(start + np.arange(keys), (1, rows, keys)).copy()
    lengths = None
    if packed:
        first = keys // 3
        lengths = (first, keys - first)
        at = np.concatenate([np.arange(first), np.arange(keys - first)])[None, None]
    given = Inputs(
        q=q,
        k=k,
        v=v,
        q_positions=at[..., keys - queries :],
        k_positions=at,
        sequence_lengths=lengths,
    )
    port = _port(layer, given, codes, arrays, rng)
    description = f"{layer.name}, {q.shape}, {k.shape}, {dtype}, packed {packed}, {port}"[:400]
    return AttentionCase(
        layer=layer,
        port=port,
        given=given,
        truth=(),
        dtype=dtype,
        evidence={},
        arguments={},
        description=description,
    )


def _port(
    layer: Layer, given: Inputs, codes: Sequence[str], arrays: Any, rng: random.Random
) -> Port:
    """Return the right port, with the options that the codes need and others at random."""
    own, rope = layer.attention, layer.rope
    width = own.width or rope.head_dim
    rope = replace(rope, start=rope.start + width - rope.head_dim, head_dim=width)
    wants = {code.split("_")[0] for code in codes}

    def has(name: str, share: float) -> bool:
        return name in wants or rng.random() < share

    window, ahead = own.window, own.window_ahead if not own.causal else None
    chunk, softcap, causal = own.chunk, own.softcap, own.causal
    keys, queries, num_heads = given.k.shape[1], given.q.shape[1], given.q.shape[2]
    if has("window", 0.1):
        window, causal = rng.choice([4, 8, 15]), True
        ahead = None
        if rng.random() < 0.3:
            causal, ahead = False, rng.choice([0, 3, 7])
    elif has("chunk", 0.1):
        chunk = rng.choice([5, 8, 16])
    if has("softcap", 0.1):
        softcap = rng.choice([3.0, 10.0, 50.0])
    if "causal" in wants:
        causal = True
    sinks = arrays.standard_normal(num_heads) if has("sinks", 0.1) or own.sinks else None
    if "lse_without_sink" in codes:
        sinks = arrays.standard_normal(num_heads)
    mask = None
    if has("mask", 0.1) and given.sequence_lengths is None:
        mask = arrays.random((1, 1, queries, keys)) < 0.7
        mask[..., np.arange(queries), np.arange(queries) + keys - queries] = True
        if rng.random() < 0.4:
            mask = np.where(mask, arrays.standard_normal(mask.shape), -1e4).astype(np.float32)
    right_scale = own.scale or width**-0.5
    scale = right_scale if own.has_mscale else rng.choice([right_scale, right_scale, 0.1])
    return Port(
        q=rope,
        k=rope,
        scale=scale,
        causal="bottom_right" if causal else None,
        window=window,
        ahead=ahead,
        chunk=chunk,
        softcap=softcap,
        sinks=sinks,
        mask=mask,
    )


def is_own(case: AttentionCase) -> bool:
    """Say whether a case attends as its preset does."""
    port, own = case.port, case.layer.attention
    width = own.width or case.layer.rope.head_dim
    return (
        isinstance(case.layer.given, str)
        and own.width > 0
        and not (own.sinks and port.sinks is None)
        and (port.window, port.ahead or 0) == (own.window, own.window_ahead)
        and (port.chunk, port.softcap) == (own.chunk, own.softcap)
        and (port.causal is not None) == own.causal
        and port.scale == (own.scale or width**-0.5)
    )


def _arguments(
    case: AttentionCase, evidence: Mapping[str, Array], rng: random.Random
) -> dict[str, Any]:
    """Return the arguments of `diagnose`; `attention` as a dict of the options."""
    port, given = case.port, case.given
    tensors = {name: getattr(given, name).astype(DTYPES[case.dtype]) for name in ("q", "k", "v")}
    arguments: dict[str, Any] = {**tensors, **evidence}
    if given.sequence_lengths is not None:
        arguments = {name: x[0] for name, x in arguments.items()}
        ends = np.cumsum([0, *given.sequence_lengths]).astype(np.int64)
        arguments |= {"cu_seqlens_q": ends, "cu_seqlens_k": ends}
    several = case.layer.rope.scheme is not None
    for side in ("q", "k"):
        at = getattr(given, f"{side}_positions")
        at = at if several else at[0]
        arguments[f"{side}_positions"] = at[0] if given.sequence_lengths is not None else at
    if port.sinks is not None:
        arguments["sinks"] = port.sinks.astype(np.float32)
    if port.mask is not None:
        arguments["mask"] = port.mask
    if is_own(case) and rng.random() < 0.5:
        return arguments
    arguments["attention"] = {
        "causal": port.causal is not None,
        "window": port.window,
        "window_ahead": port.ahead or 0,
        "chunk": port.chunk,
        "softcap": port.softcap,
        "scale": port.scale,
    }
    return arguments


def some_attention_case(
    draw: Draw, codes: Sequence[str], rng: random.Random
) -> AttentionCase | None:
    """Return a case with these mistakes; None if none was found."""
    for _ in range(5000):
        case = attention_case(draw, codes, rng)
        if case is not None:
            return case
    return None


def attention_pair(draw: Draw, rng: random.Random) -> AttentionCase:
    """Return a case with two random mistakes, one of them of attention."""
    while True:
        codes = [rng.choice(ATTENTION), rng.choice(CODES)]
        case = attention_case(draw, codes, rng) if codes[0] != codes[1] else None
        if case is not None:
            return case
