"""Attention of an `AttentionCall` on a part of the evidence, in float64."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rope_core.angles import compute_angles
from rope_core.config import RopeConfig
from rope_core.diagnosis.attention_call import AttentionCall, Sequence
from rope_core.diagnosis.calls import RotaryCall, predict
from rope_core.layouts import (
    SPLIT_HALF_LAYOUTS,
    deinterleave,
    expand_to_channels,
    rotate_half,
)

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}

MOST_ELEMENTS = 220_000_000
"""Elements that a search may simulate: about a second of one thread."""

FAR_KEYS = 2**14
"""Keys above which a part is float32: its keys are rotated in blocks, which fit into a cache."""

BLOCK_KEYS = 2048

ELEMENTS_OF_STEP = 20_000
"""What a step costs however small it is."""

SCORE_ELEMENTS = 3
"""What the softmax of a score and its value cost."""

CACHED = 16
"""Scores in the memory of a part."""

MOST_RANK = 0.75
"""A query that sees more keys than this share of the channels of the values tells nothing of which
keys it sees."""


@dataclass(frozen=True, slots=True, eq=False)
class KvHeads:
    """The kv heads that query heads `[h]` read."""

    numbers: Tensor
    """int64 `[m]`: kv heads, each once."""

    places: Tensor
    """int64 `[m]`: where they are in the tensors of a part."""

    of_heads: Tensor
    """int64 `[h]`: where the kv head of each query head is among `numbers`."""

    @classmethod
    def of(cls, kv_heads: Tensor, kept: Tensor) -> "KvHeads":
        """Return the kv heads of query heads, int64 `[h]`; a part has those in `kept`."""
        numbers, of_heads = torch.unique(kv_heads, return_inverse=True)
        return cls(numbers, torch.searchsorted(kept, numbers), of_heads)

    def of_head(self, head: int, kept: Tensor) -> "KvHeads":
        """Return the kv head of one of the query heads; a part keeps the places `kept`."""
        of_head = self.of_heads[head : head + 1]
        places = torch.searchsorted(kept, self.places[of_head])
        return KvHeads(self.numbers[of_head], places, torch.zeros_like(of_head))


class CostExceeded(Exception):
    """The search has simulated as much as it may."""


@dataclass(slots=True)
class Cost:
    """How much was simulated: elements of heads, about 8 ns each."""

    elements: int = 0

    def add(self, elements: int) -> None:
        """Count elements, and those that any step costs.

        Raises:
            CostExceeded: they are too many.
        """
        self.elements += elements + ELEMENTS_OF_STEP
        if self.elements > MOST_ELEMENTS:
            raise CostExceeded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some queries and heads of one sequence, with all its keys, in float64; float32 if far."""

    sequence: Sequence
    queries: Tensor
    """int64 `[n]`: tokens, of all rows."""

    heads: Tensor
    """int64 `[h]`: query heads."""

    kv_heads: KvHeads
    tiled_kv_heads: KvHeads
    """Those if heads are tiled."""

    q: Tensor  # [n, h, D]
    k: Tensor  # [Sk, kv heads, D]
    v: Tensor  # [Sk, kv heads, Dv]
    out: Tensor  # [n, h, Dv], the evidence
    lse: Tensor | None  # [n, h], the evidence
    bias: Tensor | None
    """The mask: `[1 or h, 1 or n, 1 or Sk]`, -inf for a hidden key."""

    cost: Cost = field(default_factory=Cost)
    """Of all parts."""

    _scores: dict[tuple[int, int, bool], "_Scores"] = field(default_factory=dict)
    _visible: dict[tuple[object, ...], tuple[Tensor, slice, Tensor]] = field(default_factory=dict)
    _least: dict[tuple[object, ...], tuple[float, object]] = field(default_factory=dict)

    @property
    def is_far(self) -> bool:
        """Whether its queries and keys are float32, because it has very many keys."""
        return self.k.dtype == torch.float32

    def narrow(self, queries: Tensor, head: int) -> "Part":
        """Return the part with some of its queries, int64 `[m]`, and one of its heads."""
        places = [
            heads.places[heads.of_heads[head]] for heads in (self.kv_heads, self.tiled_kv_heads)
        ]
        kept = torch.unique(torch.stack(places))
        return replace(
            self,
            queries=self.queries[queries],
            heads=self.heads[head : head + 1],
            kv_heads=self.kv_heads.of_head(head, kept),
            tiled_kv_heads=self.tiled_kv_heads.of_head(head, kept),
            q=self.q[queries][:, head : head + 1],
            k=self.k[:, kept],
            v=self.v[:, kept],
            out=self.out[queries][:, head : head + 1],
            lse=None if self.lse is None else self.lse[queries][:, head : head + 1],
            bias=None if self.bias is None else _narrow(self.bias, queries, head),
            _scores={},
            _visible={},
            _least={},
        )


def _narrow(bias: Tensor, queries: Tensor, head: int) -> Tensor:
    bias = bias if len(bias) == 1 else bias[head : head + 1]
    return bias if bias.shape[1] == 1 else bias[:, queries]


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Products of queries and keys, `[h, n, keys]`, and the calls that they are made of."""

    keys: slice
    products: Tensor
    calls: tuple[RotaryCall | None, RotaryCall | None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a call computes: `[..., n, h, Dv]` and `[..., n, h]`."""

    out: Tensor
    lse: Tensor


def simulate(call: AttentionCall, part: Part) -> Result:
    """Return what `call` computes of `part`.

    `call.scale` and `call.softcap` may be tensors `[C, 1, 1, 1]`: the results have a first axis.
    """
    hidden, keys = visibility(call, part)  # [n, keys]
    return _attend(call, part, hidden, keys, _products(call, part, keys))


def products(call: AttentionCall, part: Part) -> Tensor:
    """Return the products of the queries and the keys that `call` shows, `[h, n, keys]`."""
    return _products(call, part, visibility(call, part)[1])


def simulate_products(call: AttentionCall, part: Part, products: Tensor) -> Result:
    """Return what `call` computes if `products` are those of queries and keys, `[C, ...]`."""
    return _attend(call, part, *visibility(call, part), products)


def products_of_offsets(
    call: AttentionCall, part: Part, rope: RopeConfig, offsets: Tensor
) -> Tensor:
    """Return products `[C, h, n, keys]` of queries that are rotated by offsets `[C]` more.

    The rope is composable; its attention scaling is not applied again.
    """
    keys = visibility(call, part)[1]
    part.cost.add(len(offsets) * (keys.stop - keys.start) * part.k.shape[-1] // 8)
    q = rotated(part.q, call, call.q, part.queries, part.heads)
    k = _rotated_keys(call, call.k, part, part.k, keys, is_key=True)
    layout = "half" if rope.layout == "interleaved_to_half" else rope.layout
    rotation = RotaryCall(
        rope=replace(rope, layout=layout),
        positions=offsets.double().expand(rope.num_axes, -1),
        shape=(1, len(offsets), 1),
        gain=1.0,
    )
    q = _rotate(q, predict(rotation)[:, None, None], rotation)  # [C, n, h, D]
    return torch.einsum("cnhd,khd->chnk", q, k)


def _attend(
    call: AttentionCall, part: Part, hidden: Tensor, keys: slice, products: Tensor
) -> Result:
    """Return the results of products `[..., h, n, keys]` of queries and keys."""
    values_of = (call.scale, call.softcap)
    count = max(x.numel() if isinstance(x, Tensor) else 1 for x in values_of)
    elements = SCORE_ELEMENTS * count * products.numel()
    if part.is_far:
        elements = (elements if call.softcap is None else 2 * elements) + part.v[keys].numel() // 8
    part.cost.add(elements)
    dtype = products.dtype
    scale = call.scale.to(dtype) if isinstance(call.scale, Tensor) else call.scale
    softcap = call.softcap.to(dtype) if isinstance(call.softcap, Tensor) else call.softcap
    scores = products * scale
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if call.mask is not None and part.bias is not None:
        bias = part.bias if part.bias.shape[-1] == 1 else part.bias[..., keys]
        scores = scores + bias.to(dtype)
    scores = scores.masked_fill(hidden, -math.inf)
    top = scores.amax(-1) if scores.shape[-1] else scores.new_full(scores.shape[:-1], -math.inf)
    sinks = None if call.sinks is None else call.sinks[part.heads].to(dtype)[:, None]  # [h, 1]
    if sinks is not None:
        top = top.maximum(sinks)
    top = top.masked_fill(top == -math.inf, 0)
    weights = (scores - top[..., None]).exp()
    of_keys = weights.sum(-1)
    total = of_keys if sinks is None else of_keys + (sinks - top).exp()
    values = _values(call, part, keys)  # [h, keys, Dv]
    # [..., h, n, Dv]
    out = weights @ values.to(weights.dtype) / total.masked_fill(total == 0, 1)[..., None]
    out = out.transpose(-2, -3)
    if call.rotates_back and call.q is not None:
        out = _rotate(out, 1 / _factors(call, call.q, part.queries, part.heads), call.q)
    lse = (total if call.lse_counts_sinks else of_keys).log() + top
    lse = (lse + call.lse_shift) / math.log(call.lse_base)
    return Result(out, lse.transpose(-1, -2))


def visibility(call: AttentionCall, part: Part) -> tuple[Tensor, slice]:
    """Return which keys are hidden, bool `[n, keys]`, and the range of keys, which has all others.

    Keys that a mask hides count as visible.
    """
    name = call.causal, call.window, call.window_ahead, call.chunk, id(call.q_index)
    if name not in part._visible:
        part._visible[name] = *hidden_keys(call, part.queries, part.sequence), call.q_index
    return part._visible[name][:2]


def least_error(call: AttentionCall, part: Part) -> float:
    """Return the relative error that no scores make smaller, whatever they are.

    Theirs is a sum of the values that a query sees. What lies outside of their span depends on
    masks, values and heads only.
    """
    if call.rotates_back:
        return 0.0
    of_mask = call.causal, call.window, call.window_ahead, call.chunk, id(call.q_index)
    name = *of_mask, call.mask is None, call.tiled, id(call.v)
    if name not in part._least:
        part._least[name] = _least_error(call, part), (call.q_index, call.v)
    return part._least[name][0]


def _least_error(call: AttentionCall, part: Part) -> float:
    hidden, keys = visibility(call, part)
    most = int(MOST_RANK * part.v.shape[-1])
    if not (~hidden).sum(-1).amin() <= most:
        return 0.0
    values = None
    error, hidden = 0.0, hidden.expand(len(part.heads), -1, -1)
    if call.mask is not None and part.bias is not None:
        bias = part.bias if part.bias.shape[-1] == 1 else part.bias[..., keys]
        hidden = hidden | (bias == -math.inf)
    for head, of_head in enumerate(hidden):
        for query, of_query in enumerate(of_head):
            seen = (~of_query).nonzero()[:, 0]
            if len(seen) > most:
                continue
            values = _values(call, part, keys) if values is None else values
            basis = torch.linalg.qr(values[head, seen].double().T).Q  # [Dv, seen]
            given = part.out[query, head].double()
            error += float((given - basis @ (basis.T @ given)).square().sum())
    norm = float(part.out.square().sum())
    return math.sqrt(error / norm) if norm > 0 else 0.0


def hidden_keys(call: AttentionCall, queries: Tensor, sequence: Sequence) -> tuple[Tensor, slice]:
    """Return which keys of a sequence are hidden from queries, tokens int64 `[n]`.

    Bool `[n, keys]`, and the range of these keys, which has all that are visible.
    """
    k_index = call.k_index[sequence.keys]
    q_index = call.q_index[queries, None]
    distance = q_index - k_index
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if call.causal:
        hidden |= distance < 0
    if call.window is not None:
        hidden |= distance >= call.window
    if call.window_ahead is not None:
        hidden |= distance < -call.window_ahead
    if call.chunk is not None:
        of_query, of_key = (i.div(call.chunk, rounding_mode="floor") for i in (q_index, k_index))
        hidden |= of_query != of_key
    visible = (~hidden).any(0).nonzero()
    keys = slice(int(visible[0]), int(visible[-1]) + 1) if len(visible) else slice(0, 0)
    return hidden[:, keys], keys


def _products(call: AttentionCall, part: Part, keys: slice) -> Tensor:
    """Return q @ k.mT of rotated queries and keys, `[h, n, keys]`."""
    name = id(call.q), id(call.k), call.tiled
    cached = part._scores.get(name)
    if cached is None or cached.keys.start > keys.start or cached.keys.stop < keys.stop:
        count = keys.stop - keys.start
        part.cost.add(count * part.k[0].numel())
        q = rotated(part.q, call, call.q, part.queries, part.heads)
        if part.is_far:
            products = _far_products(call, part, q, keys)
        else:
            k = _rotated_keys(call, call.k, part, part.k, keys, is_key=True)
            products = torch.einsum("nhd,khd->hnk", q, k)
        if len(part._scores) >= CACHED:
            del part._scores[next(iter(part._scores))]
        cached = part._scores[name] = _Scores(keys, products, (call.q, call.k))
    start = cached.keys.start
    return cached.products[..., keys.start - start : keys.stop - start]


def _far_products(call: AttentionCall, part: Part, q: Tensor, keys: slice) -> Tensor:
    """Return the products of rotated queries and many keys, `[h, n, keys]`, block by block."""
    factors = _block_factors(call, part, keys)
    heads = part.tiled_kv_heads if call.tiled else part.kv_heads
    products: list[Tensor] = []
    for start in range(keys.start, keys.stop, BLOCK_KEYS):
        block = slice(start, min(start + BLOCK_KEYS, keys.stop))
        if call.k is None or factors is None:
            k = _rotated_keys(call, call.k, part, part.k, block, is_key=True)
        else:
            k = _of_places(part.k[block], heads.places)
            firsts, steps = factors
            of_block = steps[: len(k)] * firsts[len(products)]
            k = _rotate(k, of_block[:, None], call.k)[:, heads.of_heads]
        products.append(torch.einsum("nhd,khd->hnk", q, k))
    return torch.cat(products, -1)


def _block_factors(call: AttentionCall, part: Part, keys: slice) -> tuple[Tensor, Tensor] | None:
    """Return factors of the first key of each block, and those of a key relative to the first.

    None if positions have no common step, or if an angle is not a position times a frequency.
    """
    rotation = call.k
    if rotation is None or call.frequencies is not None or rotation.position_axis != "tokens":
        return None
    dtypes = rotation.positions_dtype, rotation.frequencies_dtype, rotation.angles_dtype
    rope = rotation.rope
    is_plain = rotation.times == 1 and dtypes == (None, None, None) and rope.num_axes == 1
    if not is_plain or not rope.is_composable or rope.rope_type == "xpos":
        return None
    first = part.sequence.keys.start
    positions = rotation.positions[:, first + keys.start : first + keys.stop]
    steps = positions.diff()
    if not bool((steps == steps[:, :1]).all()):
        return None
    of_first = predict(replace(rotation, positions=positions[:, ::BLOCK_KEYS]))
    relative = positions[:, :BLOCK_KEYS] - positions[:, :1]
    of_steps = predict(replace(rotation, positions=relative, gain=1.0))
    return of_first.to(torch.complex64), of_steps.to(torch.complex64)


def _values(call: AttentionCall, part: Part, keys: slice) -> Tensor:
    return _rotated_keys(call, call.v, part, part.v, keys).transpose(0, 1)


def _rotated_keys(
    call: AttentionCall,
    rotation: RotaryCall | None,
    part: Part,
    x: Tensor,
    keys: slice,
    *,
    is_key: bool = False,
) -> Tensor:
    """Return the keys or the values of each query head, `[keys, h, D]`."""
    heads = part.tiled_kv_heads if call.tiled else part.kv_heads
    if rotation is None:
        return _of_places(x[keys], heads.places[heads.of_heads])
    first = part.sequence.keys.start
    tokens = torch.arange(first + keys.start, first + keys.stop)
    x = rotated(
        _of_places(x[keys], heads.places), call, rotation, tokens, heads.numbers, is_key=is_key
    )
    return x if x.shape[1] == len(heads.of_heads) == 1 else x[:, heads.of_heads]


def _of_places(x: Tensor, places: Tensor) -> Tensor:
    """Return some heads of `x` `[keys, h, D]`; a single one is not copied."""
    return x[:, int(places) :][:, :1] if len(places) == 1 else x[:, places]


def rotated(
    x: Tensor,
    call: AttentionCall,
    rotation: RotaryCall | None,
    tokens: Tensor,
    heads: Tensor,
    *,
    is_key: bool = False,
) -> Tensor:
    """Return heads `[T, h, D]` of `tokens`, rotated."""
    if rotation is None:
        return x
    factors = _factors(call, rotation, tokens, heads)
    if is_key and rotation.rope.rope_type == "xpos":  # keys are divided by the scale
        gain = rotation.rope.attention_scaling if rotation.gain is None else rotation.gain
        factors = factors * (gain / factors.abs()).square()
    for _ in range(rotation.times):
        x = _rotate(x, factors, rotation)
    return x


def _factors(call: AttentionCall, rotation: RotaryCall, tokens: Tensor, heads: Tensor) -> Tensor:
    """Return gain * exp(i angle) of one application, complex128 `[T or 1, h or 1, n]`."""
    once = replace(rotation, times=1)
    if call.frequencies is not None:
        positions = rotation.positions[:, tokens]
        positions = positions[0] if rotation.rope.num_axes == 1 else positions
        cos, sin, _ = compute_angles(positions, rotation.rope, call.frequencies)
        factors = torch.complex(cos.double(), sin.double())
        return factors[:, heads] if factors.ndim == 3 else factors[:, None]
    if rotation.position_axis == "heads":
        return predict(once, heads)[None]
    if rotation.position_axis == "batch":
        tokens = tokens // rotation.shape[1]
    return predict(once, tokens)[:, None]


def _rotate(x: Tensor, factors: Tensor, rotation: RotaryCall) -> Tensor:
    """Return `x` `[T, h, D]` with each pair multiplied by its factor `[..., T, h, n]`."""
    rope = rotation.rope
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    end, width = start + rope.rotary_dim, rope.rotary_dim // rope.blocks
    y = x[..., start:end].reshape(*x.shape[:-1], rope.blocks, width)
    if rope.layout == "interleaved_to_half":
        y = deinterleave(y)
    factors = factors.view(*factors.shape[:-1], rope.blocks, factors.shape[-1] // rope.blocks)
    is_half = rope.layout in SPLIT_HALF_LAYOUTS
    is_mixed = rotation.table_layout not in (None, rope.layout)
    if is_mixed or 2 * factors.shape[-1] != width or not (is_half or rope.layout == "interleaved"):
        table_layout = rotation.table_layout or rope.layout
        c, s = (
            expand_to_channels(t.to(x.dtype), table_layout, width)
            for t in (factors.real, factors.imag)
        )
        y = y * c + rotate_half(y, rope.layout) * s
    elif is_half:
        pairs = torch.complex(*y.chunk(2, -1)) * factors.to(COMPLEX[x.dtype])
        y = torch.cat((pairs.real, pairs.imag), -1)
    else:
        pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2).contiguous())
        y = torch.view_as_real(pairs * factors.to(COMPLEX[x.dtype])).flatten(-2)
    y = y.flatten(-2)
    if rope.rotary_dim < rope.head_dim:
        first, last = (t.expand(*y.shape[:-1], -1) for t in (x[..., :start], x[..., end:]))
        y = torch.cat((first, y, last), -1)
    return y if rotation.permutation is None else y[..., list(rotation.permutation)]
