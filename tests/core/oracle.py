"""How far an answer is from `rope_core.reference`, and how far it may be."""

import math
from itertools import pairwise

import pytest
import torch

from rope_core import AttentionConfig, NoBackend, attend, reference
from rope_core.backends import BACKENDS, AttentionWork, fused, varlen

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("half", "interleaved")

# design.md, section 6: norm of the error by norm of the reference, on the same rounded inputs
ROTATE_BAR = {torch.float32: 1e-7, torch.float16: 2.3e-4, torch.bfloat16: 1.8e-3}
ATTEND_BAR = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
# the operator of PyTorch takes a faster exp in half precision
LSE_BAR = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-4}


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def qkv(q_shape, kv_shape, *, value_dim=None, dtype=torch.float32, seed=0):
    *tokens, head_dim = kv_shape
    return (
        randn(*q_shape, dtype=dtype, seed=seed),
        randn(*tokens, head_dim, dtype=dtype, seed=seed + 1),
        randn(*tokens, head_dim if value_dim is None else value_dim, dtype=dtype, seed=seed + 2),
    )


def off(actual, expected):
    """Return ||actual - expected|| / ||expected||, NaN where either holds one."""
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).norm().item()
    norm = expected.double().norm().item()
    return distance / norm if norm else distance


def lse_off(actual, expected):
    """Return the largest distance of two log-sum-exps, by their size where that is over 1."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    empty = expected == -math.inf
    assert torch.equal(actual == -math.inf, empty)
    expected = expected.masked_fill(empty, 0)
    distance = (actual.double().masked_fill(empty, 0) - expected) / expected.abs().clamp(min=1)
    return distance.abs().max().item() if distance.numel() else 0.0


def spans(cu_seqlens_q, cu_seqlens_k):
    """Return queries and keys of each packed sequence."""
    return [
        (slice(*at_q), slice(*at_k))
        for at_q, at_k in zip(
            pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True
        )
    ]


def expect(
    q, k, v, config, cu_seqlens_q=None, cu_seqlens_k=None, *, sinks=None, mask=None, index=None
):
    """Return what the reference answers, sequence by sequence if packed.

    An index is `[S]`, the same for all rows, or packed `[T]`.
    """
    if mask is not None:
        mask = every_axis(mask, q, k)
        mask = mask[0] if q.ndim == 3 else mask
    if cu_seqlens_q is None:
        return reference.attention(q, k, v, config, sinks, mask, index)
    parts = [
        reference.attention(
            *(q[queries], k[keys], v[keys], config, sinks),
            None if mask is None else mask[:, queries, keys],
            None if index is None else (index[0][queries], index[1][keys]),
        )
        for queries, keys in spans(cu_seqlens_q, cu_seqlens_k)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def every_axis(mask, q, k):
    """Return a mask `[B, 1 or H, Sq, Sk]`."""
    mask = mask if mask.ndim == 4 else mask[None, None]
    return mask.expand(len(q) if q.ndim == 4 else 1, -1, q.shape[-3], k.shape[-3])


# what docs/kernels.md says that a backend leaves to others on the CPU, of what is asked here
DECLINED = {
    "eager": (),
    "sdpa": (
        "it computes attention only",
        "softcap is not in the operator",
        "multiplies its mask's -inf",
    ),
    "fused": (
        "there are no kernels for heads of width",
        "wide, not a multiple of 16",
        "the layout is neither half nor interleaved",
        "xPos scales each pair",
        "it rounds once, not as",
        "the angles differ by head",
    ),
}


RUN_HERE = tuple(backend for backend in BACKENDS if backend is not varlen)
"""Backends that run without a GPU, or have a stand-in for it; for the other see test_varlen."""


def skip_declined(name, reason):
    """Skip what a backend declines, if it may."""
    if reason is not None:
        assert any(words in reason for words in DECLINED[name]), f"{name} declines: {reason}"
        pytest.skip(f"{name}: {reason}")


def attended(call, backend):
    """Return what one backend answers. Skips what it declines."""
    try:
        answer = attend(call, backend=backend.name)
    except NoBackend as declined:
        skip_declined(backend.name, declined.reasons[backend.name])
    assert answer.backend == backend.name
    return answer.out


def run(
    backend,
    q,
    k,
    v,
    config=None,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    *,
    sinks=None,
    mask=None,
    index=None,
    out_dtype=None,
):
    """Attend with one backend, on memory that held NaN. Skips what the backend declines."""
    packed = cu_seqlens_q is not None
    one = q.ndim == 3 and not packed
    ends = (cu_seqlens_q, cu_seqlens_k) if packed else None
    if index is not None and not packed:
        index = tuple(i.expand(len(q) if q.ndim == 4 else 1, -1) for i in index)
    work = AttentionWork(
        *(t[None] if one else t for t in (q, k, v)),
        config or AttentionConfig(),
        None if ends is None else tuple(each.diff().tolist() for each in ends),
        ends,
        sinks,
        None if mask is None else every_axis(mask, q, k),
        index,
        out_dtype,
    )
    skip_declined(backend.name, backend.why_not(work, named=True))
    rows = len(q) if q.ndim == 4 else 1
    if backend is fused and q.is_cpu and rows * q.shape[-3] * k.shape[-3] * q.shape[-2] > 2**20:
        pytest.skip("more than 2**20 scores take seconds to interpret")
    with pytest.MonkeyPatch.context() as patch:
        empty = torch.empty
        patch.setattr(torch, "empty", lambda *size, **kind: empty(*size, **kind).fill_(math.nan))
        out, lse = backend.run(work)
    return (out[0], lse[0]) if one else (out, lse)
