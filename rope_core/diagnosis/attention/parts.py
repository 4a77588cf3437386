"""Which parts of the evidence of attention are simulated: the fewest that distinguish mistakes."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rope_core.diagnosis.attention.simulation import FAR_KEYS, Cost, KvHeads, Part
from rope_core.diagnosis.attention_call import AttentionCall, Sequence

FEW_KEYS = 64
"""Queries that see at most so many keys are cheap to simulate."""

MAX_HEADS = 3
MAX_QUERIES = 12
"""Of each part."""

ENOUGH_KEYS = 24
"""A sequence of so many keys distinguishes most mistakes."""


MANY_ELEMENTS = 2**25
"""Elements of keys and values above which reading them takes time of the search."""

READ_ELEMENTS = 0.4
"""What an element of keys and values costs then."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionTensors:
    """The evidence, tokens of all rows one after the other."""

    q: Tensor  # [Tq, H, D]
    k: Tensor  # [Tk, Hkv, D]
    v: Tensor  # [Tk, Hkv, Dv]
    out: Tensor  # [Tq, H, Dv], the evidence
    lse: Tensor | None  # [Tq, H], the evidence


def parts(tensors: AttentionTensors, call: AttentionCall, errors: Tensor) -> list[Part]:
    """Return parts of the evidence, the cheapest first; the first is a probe of the second.

    Args:
        tensors: the evidence.
        call: the right call.
        errors: relative error of each query and head, `[Tq, H]`.
    """
    heads = _heads(call, errors)
    chosen: list[Part] = []
    cost = Cost(_cost_of_expected(call))
    for sequence in _sequences(call, errors):
        visible = _num_visible(call, sequence)
        of_queries = errors[sequence.queries].amax(-1)
        few, many = visible <= FEW_KEYS, visible > FEW_KEYS
        for candidates in (few & (visible > 0), many):
            if bool(candidates.any()):
                queries = _queries(call, candidates.nonzero()[:, 0], of_queries)
                of_part = _worst_heads(call, heads, errors) if candidates is many else heads
                chosen.append(_part(tensors, call, sequence, queries, of_part))
        if not bool((visible > 0).any()):
            queries = torch.arange(min(2, len(visible)))
            chosen.append(_part(tensors, call, sequence, queries, heads))
    chosen = [replace(part, cost=cost) for part in chosen]
    chosen.sort(key=lambda part: _cost(call, part))
    probe = _probe(chosen[0], errors)
    is_all = len(chosen) == 1 and probe.out.shape == chosen[0].out.shape
    return [probe] if is_all else [probe, *chosen]


def _probe(part: Part, errors: Tensor) -> Part:
    """Return the worst query, that with the most keys and one between, of the worst head."""
    of_part = errors[part.queries][:, part.heads]  # [n, h]
    head = int(of_part.amax(0).argmax())
    last = len(part.queries) - 1
    queries = sorted({int(of_part[:, head].argmax()), (last + 1) // 2, last})
    return part.narrow(torch.tensor(queries), head)


def _cost(call: AttentionCall, part: Part) -> int:
    first = part.sequence.queries.start
    return int(_num_visible(call, part.sequence)[part.queries - first].max())


def _sequences(call: AttentionCall, errors: Tensor) -> list[Sequence]:
    """Return the shortest wrong sequence that has enough keys, the worst one, and the best one."""
    worst = [float(errors[sequence.queries].amax()) for sequence in call.sequences]
    order = sorted(range(len(worst)), key=worst.__getitem__)
    largest = worst[order[-1]]
    lengths = [sequence.keys.stop - sequence.keys.start for sequence in call.sequences]
    wrong = [i for i in order if worst[i] > largest / 10 and lengths[i] >= ENOUGH_KEYS]
    first = min(wrong, key=lengths.__getitem__, default=order[-1])
    return [call.sequences[i] for i in dict.fromkeys((first, order[-1], order[0]))]


def _heads(call: AttentionCall, errors: Tensor) -> Tensor:
    """Return the worst head, the best one, and one with another kv head if heads are tiled."""
    of_heads = errors.amax(0)
    group = call.num_heads // call.num_kv_heads
    numbers = torch.arange(call.num_heads)
    moved = (numbers // group != numbers % call.num_kv_heads).nonzero()[:1, 0].tolist()
    chosen = dict.fromkeys((int(of_heads.argmax()), int(of_heads.argmin()), *moved))
    return torch.tensor(sorted(chosen)[:MAX_HEADS])


def _cost_of_expected(call: AttentionCall) -> int:
    """Return what the expected values took of the time of the search.

    Rotating very many keys, and scores with a soft cap.
    """
    channels = call.num_kv_heads * (call.head_dim + call.value_dim)
    of_keys = max(0, int((len(call.k_index) * channels - MANY_ELEMENTS) * READ_ELEMENTS))
    if call.softcap is None:
        return of_keys
    of_keys += of_keys // 2
    of_heads = sum(
        (s.queries.stop - s.queries.start) * (s.keys.stop - s.keys.start) for s in call.sequences
    )
    return of_keys + int(of_heads * call.num_heads // 3)


def _worst_heads(call: AttentionCall, heads: Tensor, errors: Tensor) -> Tensor:
    """Return the worst and the best of the heads: all keys of more would take too long."""
    worst = errors.amax(0)[heads]
    if len(call.k_index) > FAR_KEYS:
        return heads[int(worst.argmax())][None]
    return heads[sorted({int(worst.argmax()), int(worst.argmin())})]


def _num_visible(call: AttentionCall, sequence: Sequence) -> Tensor:
    """Return how many keys each query sees without its mask, about: int64 `[Sq]`."""
    q_index, k_index = call.q_index[sequence.queries], call.k_index[sequence.keys]
    k_index = k_index.sort().values
    low = torch.full_like(q_index, torch.iinfo(torch.int64).min // 2)
    high = -low
    if call.causal:
        high = q_index
    if call.window is not None:
        low = q_index - call.window + 1
    if call.window_ahead is not None:
        high = high.minimum(q_index + call.window_ahead)
    if call.chunk is not None:
        start = q_index.div(call.chunk, rounding_mode="floor") * call.chunk
        low, high = low.maximum(start), high.minimum(start + call.chunk - 1)
    after = torch.searchsorted(k_index, high, right=True)
    return (after - torch.searchsorted(k_index, low)).clamp(min=0)


def _queries(call: AttentionCall, candidates: Tensor, errors: Tensor) -> Tensor:
    """Return some of the candidates: spread, and around the first error."""
    count = len(candidates)
    spread = {0, 1, count - 1, *(round(count ** (i / 5)) - 1 for i in range(1, 6))}
    limit = float(errors[candidates].amax()) / 10
    wrong = (errors[candidates] > limit).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        spread |= {first, first - 1, int(wrong[len(wrong) // 2])}
    spread.add(int(errors[candidates].argmax()))
    for size in (call.window, call.chunk):
        if size is not None:
            spread |= {size - 1, size, size + 1, 2 * size}
    index = sorted(i for i in spread if 0 <= i < count)
    if len(index) > MAX_QUERIES:
        step = (len(index) - 1) / (MAX_QUERIES - 1)
        index = [index[round(i * step)] for i in range(MAX_QUERIES)]
    return candidates[index]


def _part(
    tensors: AttentionTensors,
    call: AttentionCall,
    sequence: Sequence,
    queries: Tensor,
    heads: Tensor,
) -> Part:
    kv_heads = heads // (call.num_heads // call.num_kv_heads)
    tiled = heads % call.num_kv_heads
    kept = torch.unique(torch.cat((kv_heads, tiled)))
    is_far = sequence.keys.stop - sequence.keys.start > FAR_KEYS
    dtype = torch.float32 if is_far else torch.float64
    tokens = queries + sequence.queries.start

    def of_queries(x: Tensor) -> Tensor:
        return x[tokens][:, heads].to(dtype)

    def of_keys(x: Tensor) -> Tensor:
        # a key that no query sees may be no number
        return x[sequence.keys, kept].to(dtype).nan_to_num_(0.0, 0.0, 0.0)

    return Part(
        sequence=sequence,
        queries=tokens,
        heads=heads,
        kv_heads=KvHeads.of(kv_heads, kept),
        tiled_kv_heads=KvHeads.of(tiled, kept),
        q=of_queries(tensors.q),
        k=of_keys(tensors.k),
        v=of_keys(tensors.v),
        out=of_queries(tensors.out).double(),
        lse=None if tensors.lse is None else of_queries(tensors.lse).double(),
        bias=None if call.mask is None else mask_bias(call.mask, sequence, queries, heads),
    )


def mask_bias(mask: Tensor, sequence: Sequence, queries: Tensor, heads: Tensor) -> Tensor:
    """Return what a mask adds to the scores of a part: `[1 or h, 1 or n, 1 or Sk]`."""
    mask = mask if mask.ndim == 4 else mask[None, None]
    part = mask[sequence.row if len(mask) > 1 else 0]
    part = part if len(part) == 1 else part[heads]
    if part.shape[1] > 1:
        part = part[:, queries + sequence.mask_queries.start]
    if part.shape[2] > 1:
        part = part[:, :, sequence.mask_keys]
    if part.dtype is torch.bool:
        return torch.zeros(part.shape, dtype=torch.float64).masked_fill(~part, -math.inf)
    return part.double()
