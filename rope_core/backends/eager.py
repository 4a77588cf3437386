"""Plain PyTorch, in float32: runs everything; what the other backends are tested against."""

import torch
from torch import Tensor

from rope_core.backends.work import Attention, Rotation, Work

name = "eager"

CHUNK_ELEMENTS = 2**16 - 1
"""Elements rotated at a time: they stay in a core's cache, and torch divides none among threads."""

COMPLEX_LANES = 16
"""Complex numbers that torch multiplies at a time; those that are left over it rounds otherwise."""

SCORE_ELEMENTS = 2**24
"""Scores that exist at a time; 64 MiB in float32."""


def why_not(work: Work) -> None:
    """Nothing stands against it."""


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    if isinstance(work, Rotation):
        _rotate(work)
        return (work.out,)
    q, k, v = work.q, work.k, work.v
    out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if work.spans is None:
        for row in range(len(q)):
            _attend(work, q[row], k[row], v[row], out[row], lse[row])
    else:
        for queries, keys in work.spans:
            _attend(work, q[queries], k[keys], v[keys], out[queries], lse[queries])
    return out, lse


def _rotate(work: Rotation) -> None:
    x, out = work.x, work.out
    tokens, heads, head_dim = x.shape
    rotary_dim = 2 * work.cos.shape[-1]
    if rotary_dim < head_dim:
        out[..., rotary_dim:].copy_(x[..., rotary_dim:])
        x, out = x[..., :rotary_dim], out[..., :rotary_dim]
    step = max(1, CHUNK_ELEMENTS // (heads * head_dim))
    if tokens <= step:
        _rotate_chunk(x, work.cos, work.sin, work, out)
        return
    for start in range(0, tokens, step):
        rows = slice(start, start + step)
        _rotate_chunk(x[rows], work.cos[rows], work.sin[rows], work, out[rows])


def _rotate_chunk(x: Tensor, cos: Tensor, sin: Tensor, work: Rotation, out: Tensor) -> None:
    rotate = _rotate_interleaved if work.layout == "interleaved" else _rotate_half
    if out.dtype is torch.float32:
        rotate(x, cos, sin, work.inverse, out)
    else:
        x = x.float()
        rotated = torch.empty_like(x)
        rotate(x, cos, sin, work.inverse, rotated)
        out.copy_(rotated)


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    sign = -1 if inverse else 1
    cos, sin = torch.cat((cos, cos), -1).unsqueeze(1), sin.unsqueeze(1)  # [T, 1, D], [T, 1, half]
    x1, x2 = x.chunk(2, -1)
    torch.mul(x, cos, out=out)
    out1, out2 = out.chunk(2, -1)
    out1.addcmul_(x2, sin, value=-sign)
    out2.addcmul_(x1, sin, value=sign)


def _rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    # the shape alone decides how: where tensors lie in memory must not change a bit
    if cos.shape[-1] % COMPLEX_LANES or x.numel() > CHUNK_ELEMENTS:
        _rotate_neighbours(x, cos, sin, inverse, out)
        return
    turn = torch.complex(cos, -sin if inverse else sin)[:, None]  # [T, 1, half]
    out_pairs = _pairs(out)
    if _lie_as_complex(out_pairs):
        torch.mul(_as_complex(x), turn, out=torch.view_as_complex(out_pairs))
    else:
        out_pairs.copy_(torch.view_as_real(_as_complex(x) * turn))


def _rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    """Rotate without a product of complex numbers, whose rounding differs at the end of a row."""
    quarter = torch.view_as_real(_as_complex(x) * 1j).flatten(-2)  # (-x2, x1), exact
    cos_cos, sin_sin = (torch.stack((t, t), -1).flatten(-2)[:, None] for t in (cos, sin))
    torch.mul(x, cos_cos, out=out)
    out.addcmul_(quarter, sin_sin, value=-1 if inverse else 1)


def _as_complex(x: Tensor) -> Tensor:
    pairs = _pairs(x)
    if not _lie_as_complex(pairs):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(pairs)


def _pairs(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], x.shape[-1] // 2, 2)


def _lie_as_complex(pairs: Tensor) -> bool:
    *strides, last = pairs.stride()
    return last == 1 and not any(stride % 2 for stride in (*strides, pairs.storage_offset()))


def _attend(work: Attention, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Attend from q `[Sq, H, D]` to k and v `[Sk, Hkv, D]` into `out` and `lse`, in chunks of q."""
    k, v = (t.float().transpose(0, 1)[:, None] for t in (k, v))  # [Hkv, 1, Sk, D]
    num_kv_heads, _, num_keys, head_dim = k.shape
    num_queries, num_heads = q.shape[:2]
    step = max(1, SCORE_ELEMENTS // (num_heads * max(1, num_keys)))
    for start in range(0, num_queries, step):
        rows = range(start, min(start + step, num_queries))
        chunk = slice(rows.start, rows.stop)
        some = q[chunk].float().reshape(len(rows), num_kv_heads, -1, head_dim).movedim(0, 2)
        scores = some @ k.mT * work.scale  # [Hkv, G, n, Sk]
        if work.config.softcap is not None:
            scores = (scores / work.config.softcap).tanh_() * work.config.softcap
        hidden = _hidden(rows, num_queries, num_keys, work)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        found, found_lse = _softmax_times(scores, v, hidden)
        out[chunk] = found.movedim(2, 0).flatten(1, 2)
        lse[chunk] = found_lse.movedim(2, 0).flatten(1, 2)


def _hidden(rows: range, num_queries: int, num_keys: int, work: Attention) -> Tensor | None:
    """Return which keys `[n, Sk]` the queries `rows` do not see; None where they see all."""
    window = work.config.window
    if not work.config.causal and window is None:
        return None
    device = work.q.device
    last_seen = torch.arange(rows.start, rows.stop, device=device) + num_keys - num_queries
    distance = last_seen[:, None] - torch.arange(num_keys, device=device)
    hidden = distance < 0
    return hidden if window is None else hidden | (distance >= window)


def _softmax_times(scores: Tensor, v: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ v, 0 where all scores are -inf, and their log-sum-exp."""
    lse = scores.logsumexp(-1)  # [Hkv, G, n]; -inf for a row without keys, too
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp_()
    out = weights @ v
    finite = v.isfinite()
    if hidden is not None and not bool(finite.all()):
        # 0 * NaN is NaN: what no visible key brought in is computed again without it
        brought = (~hidden).float() @ (~finite).float() > 0  # [Hkv, 1, n, Dv]
        out = torch.where(brought, out, weights @ v.masked_fill(~finite, 0))
    return out, lse
