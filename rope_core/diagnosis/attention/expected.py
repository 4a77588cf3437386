"""What attention of a layer gives: the numbers that evidence is compared with."""

import math

import torch
from torch import Tensor

from rope_core.attention import rotate_inputs, run_attend
from rope_core.calls import Attend, Attended
from rope_core.diagnosis.attention.parts import mask_bias
from rope_core.diagnosis.attention.simulation import hidden_keys
from rope_core.diagnosis.attention_call import AttentionCall

MANY_SCORES = 2**23
"""Scores with a soft cap from which on heads are computed one by one."""

BLOCK_QUERIES = 128
"""Queries of a head at a time: their scores stay in a cache."""


def expected_values(call: Attend, right: AttentionCall) -> Attended:
    """Return what `call` gives. A soft cap of long sequences is computed here, in float32.

    The product's reference backend reads all heads for each few queries, and all hidden keys.
    """
    scores = sum(
        (s.queries.stop - s.queries.start) * (s.keys.stop - s.keys.start) for s in right.sequences
    )
    is_long = call.attention.softcap is not None and scores * right.num_heads >= MANY_SCORES
    inputs = (call.q, call.k, call.v)
    if not is_long or right.rotates_back or not all(bool(x.isfinite().all()) for x in inputs):
        return run_attend(call)
    q, k, v, _, _ = rotate_inputs(call)
    out, lse = _capped(right, *(x.flatten(0, -3) for x in (q, k, v)))
    return Attended(
        out.view(*call.q.shape[:-1], -1), lse.view(call.q.shape[:-1]) if call.return_lse else None
    )


def _capped(right: AttentionCall, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return out `[Tq, H, Dv]` and log-sum-exp `[Tq, H]` of rotated heads `[T, h, D]`."""
    out = q.new_zeros((len(q), right.num_heads, right.value_dim))
    lse = torch.full(out.shape[:2], -math.inf)
    group = right.num_heads // right.num_kv_heads
    for sequence in right.sequences:
        k_part, v_part = (x[sequence.keys].float().transpose(0, 1).contiguous() for x in (k, v))
        for start in range(sequence.queries.start, sequence.queries.stop, BLOCK_QUERIES):
            rows = slice(start, min(start + BLOCK_QUERIES, sequence.queries.stop))
            tokens = torch.arange(rows.start, rows.stop)
            hidden, keys = hidden_keys(right, tokens, sequence)
            if keys.start == keys.stop:
                continue
            bias = torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)[None]
            if right.mask is not None:
                heads = torch.arange(right.num_heads)
                of_mask = mask_bias(right.mask, sequence, tokens - sequence.queries.start, heads)
                of_mask = of_mask if of_mask.shape[-1] == 1 else of_mask[..., keys]
                bias = (bias + of_mask.float()).expand(-1, *hidden.shape)
            first = _first_column(bias)
            for head in range(right.num_heads):
                kv = head // group
                scores = (q[rows, head].float() * right.scale) @ k_part[kv, keys].T
                if right.softcap is not None:
                    scores.div_(right.softcap).tanh_().mul_(right.softcap)
                scores[:, first:] += bias[min(head, len(bias) - 1), :, first:]
                sink = None if right.sinks is None else right.sinks[head].float()
                out[rows, head], lse[rows, head] = _softmax(scores, v_part[kv, keys], sink, out)
    return out, lse


def _first_column(bias: Tensor) -> int:
    """Return the first key with a bias that is not 0, `[1 or H, n, keys]`."""
    columns = (bias != 0).any(1).any(0).nonzero()
    return int(columns[0]) if len(columns) else bias.shape[-1]


def _softmax(scores: Tensor, v: Tensor, sink: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ v in the dtype of `out`, and the log-sum-exp; overwrite scores."""
    top = scores.amax(-1)
    if sink is not None:
        top = top.maximum(sink)
    top.masked_fill_(top == -math.inf, 0)
    total = scores.sub_(top[:, None]).exp_().sum(-1)
    if sink is not None:
        total += (sink - top).exp()
    sums = (scores @ v) / total.masked_fill(total == 0, 1)[:, None]
    return sums.to(out.dtype), total.log() + top
