"""What an append, an attend or a step carries: tensors of layers and rows, taken apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from tests.kvcache_oracle.cache import ListCache, Position
from tests.kvcache_oracle.calls import DTYPES, Call, Refused
from tests.kvcache_oracle.configurations import Array

PARAMETERS = {"layer", "layers", "rows", "expected_length", "expected_generation"}
OF_QUERIES = {"return_lse", "out_dtype", "backend"}
ALLOWED = {
    "append": (PARAMETERS, {"k", "v"}, {"positions", "cu_seqlens"}),
    "attend": (
        {"layer", "layers", "rows"} | OF_QUERIES,
        {"q"},
        {"positions", "cu_seqlens", "q_index", "tail_mask"},
    ),
    "step": (
        PARAMETERS | OF_QUERIES,
        {"q", "k", "v"},
        {"positions", "cu_seqlens", "tail_mask"},
    ),
}


@dataclass
class LayerInputs:
    layers: list[int]
    rows: list[int]
    counts: list[int]
    """New tokens, or queries, of each row."""
    is_packed: bool
    tensors: dict[str, list[list[Tensor]]]
    """Of q, k, v: by layer and row, `[n, heads, width]`."""
    positions: list[list[Position]] | None
    q_index: list[list[int]] | None
    tail_masks: list[Array] | None
    digests: list[list[tuple[bytes, ...]]]
    """Bytes of k, v and positions by layer and row."""

    @classmethod
    def read(cls, cache: ListCache, call: Call) -> "LayerInputs":
        """Raises Refused 422: names or shapes do not fit."""
        params, tensors = call.params, call.tensors
        allowed, required, optional = ALLOWED[call.operation]
        if {*params} - allowed or {*tensors} - required - optional:
            raise Refused(422, "unknown")
        if required - {*tensors}:
            raise Refused(422)
        layers = _layers(cache, params)
        group = cache.config.group(layers[0])
        if any(layer not in group.layers for layer in layers):
            raise Refused(422)
        rows = _rows(cache, params)
        is_packed = "cu_seqlens" in tensors
        counts = _counts(cache, call, rows, tensors)
        if call.operation == "step" and 0 in counts:
            raise Refused(422)
        heads = {
            "q": (group.heads, group.head_dim),
            "k": (group.kv_heads, group.head_dim),
            "v": (group.kv_heads, group.value_dim),
        }
        parts: dict[str, list[list[Tensor]]] = {}
        for name in required:
            tensor = tensors[name]
            lead = (sum(counts),) if is_packed else (len(rows), counts[0] if counts else 0)
            if "layers" in params:
                lead = (len(layers), *lead)
            if tensor.shape != (*lead, *heads[name]) or tensor.dtype != DTYPES[cache.config.dtype]:
                raise Refused(422, "shape")
            stacked = tensor if "layers" in params else tensor[None]
            parts[name] = [_by_row(each, counts, is_packed) for each in stacked]
        positions, raw = _positions(cache, tensors.get("positions"), counts, is_packed)
        digests = []
        if call.operation != "attend":
            digests = [
                [
                    (_bytes(k), _bytes(v), raw[i])
                    for i, (k, v) in enumerate(zip(ks, vs, strict=True))
                ]
                for ks, vs in zip(parts["k"], parts["v"], strict=True)
            ]
        q_index = tensors.get("q_index")
        by_row = None
        if q_index is not None:
            by_row = [each.tolist() for each in _by_row(q_index, counts, is_packed)]
        masks = None
        if "tail_mask" in tensors:
            mask = tensors["tail_mask"].numpy()
            if mask.shape[-2] != counts[0]:
                raise Refused(422, "shape")
            masks = [*mask] if mask.ndim == 3 else [mask] * len(rows)
        return cls(layers, rows, counts, is_packed, parts, positions, by_row, masks, digests)

    def new(self, layer: int) -> list[tuple[Array, Array]]:
        """Return k and v of each row in float64."""
        ks, vs = self.tensors["k"][layer], self.tensors["v"][layer]
        return [(_float64(k), _float64(v)) for k, v in zip(ks, vs, strict=True)]

    def queries(self, layer: int) -> list[Array]:
        return [_float64(q) for q in self.tensors["q"][layer]]


def _float64(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.double().numpy().tobytes()


def _layers(cache: ListCache, params: dict[str, Any]) -> list[int]:
    if "layers" in params:
        layers = [*params["layers"]]
        if "layer" in params or not layers or len({*layers}) < len(layers):
            raise Refused(422)
    elif "layer" in params:
        layers = [params["layer"]]
    elif len(cache.layers) == 1:
        layers = [0]
    else:
        raise Refused(422)
    if any(layer not in cache.layers for layer in layers):
        raise Refused(422)
    return layers


def _rows(cache: ListCache, params: dict[str, Any]) -> list[int]:
    rows = [*params.get("rows", range(len(cache.rows)))]
    if any(not 0 <= row < len(cache.rows) for row in rows) or len({*rows}) < len(rows):
        raise Refused(422)
    return rows


def _counts(
    cache: ListCache, call: Call, rows: Sequence[int], tensors: dict[str, Tensor]
) -> list[int]:
    """Return the tokens of each row, from q or k."""
    tensor = tensors["q" if call.operation == "attend" else "k"]
    if "cu_seqlens" in tensors:
        ends = tensors["cu_seqlens"].tolist()
        if len(ends) != len(rows) + 1:
            raise Refused(422)
        return [b - a for a, b in pairwise(ends)]
    axis = 2 if "layers" in call.params else 1
    if tensor.ndim <= axis:
        raise Refused(422)
    return [tensor.shape[axis]] * len(rows)


def _by_row(tensor: Tensor, counts: Sequence[int], is_packed: bool) -> list[Tensor]:
    return [*tensor.split([*counts])] if is_packed else [*tensor]


def _positions(
    cache: ListCache, given: Tensor | None, counts: Sequence[int], is_packed: bool
) -> tuple[list[list[Position]] | None, list[bytes]]:
    """Return the position of each token by row, and their bytes."""
    if given is None:
        return None, [b""] * len(counts)
    num_axes = cache.config.num_axes
    axes = [*given] if num_axes > 1 else [given]
    if len(axes) != num_axes:
        raise Refused(422)
    by_axis = [_by_row(axis, counts, is_packed) for axis in axes]
    rows = [
        [tuple(int(axis[row][i]) for axis in by_axis) for i in range(count)]
        for row, count in enumerate(counts)
    ]
    return rows, [np.array(row, dtype=np.int64).tobytes() + b"given" for row in rows]
