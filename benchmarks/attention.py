"""Attention over a matrix product, over a copy of what it reads, and over a loop of plain calls."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks import oracle, torch_baseline
from benchmarks.case import Case, Sizes
from rope_core import Attend, RopeConfig, attend

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
ROPE = RopeConfig.of(HEAD_DIM)


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases; tensors of one are gone before the next ones are made."""
    for dtype in (torch.float32, torch.bfloat16):
        for length in sizes.prompts:
            yield _prefill(length, sizes.matrix, dtype)
    for dtype in (torch.float32, torch.bfloat16):
        for heads_first in (False, True):
            yield _decode(sizes.cached, None, dtype, heads_first)
        yield _decode(sizes.cached, ROPE, dtype)
    for rope in (None, ROPE):
        yield _ragged(*sizes.ragged, rope)


def _prefill(length: int, matrix: int, dtype: torch.dtype) -> Case:
    q, k, v = _tensors(length, length, dtype)
    call = Attend(q, k, v, ROPE)
    a, b = torch.randn(2, matrix, matrix).to(dtype).unbind()
    title = f"prefill S={length} {_name(dtype)}, rotation included"
    product = torch.empty_like(a)
    return Case(
        title,
        lambda: attend(call),
        lambda: _check(title, call),
        f"mm {matrix}^3",
        lambda: torch.mm(a, b, out=product),
        2.0 * HEAD_DIM * HEADS * length * (length + 1),  # what causality leaves of q @ k.T and @ v
        "GFLOP/s",
        2.0 * matrix**3,
    )


def _decode(
    cached: int, rope: RopeConfig | None, dtype: torch.dtype, heads_first: bool = False
) -> Case:
    q, k, v = _tensors(1, cached, dtype)
    if heads_first:  # in memory, as caches lie that keep each head's keys together
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    call = Attend(q, k, v, rope, q_positions=torch.tensor([cached - 1]))
    k_copy, v_copy = torch.empty_like(k), torch.empty_like(v)
    how = "rotating" if rope is not None else "heads first" if heads_first else "rotated before"
    title = f"decode Sk={cached} {_name(dtype)}, {how}"
    return Case(
        title,
        lambda: attend(call),
        lambda: _check(title, call),
        "copy of k, v",
        lambda: (k_copy.copy_(k), v_copy.copy_(v)),
        2.0 * (k.nbytes + v.nbytes),
    )


def _ragged(count: int, least: int, most: int, rope: RopeConfig | None) -> Case:
    lengths = torch.linspace(least, most, count).long()[torch.randperm(count)]
    ends = [0, *lengths.cumsum(0).tolist()]
    q, k, v = (t[0] for t in _tensors(ends[-1], ends[-1], torch.float32))
    cu_seqlens = torch.tensor(ends)
    call = Attend(q, k, v, rope, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens)
    spans = [slice(*span) for span in pairwise(ends)]
    cos, sin = torch_baseline.tables(torch.arange(most), HEAD_DIM)

    @torch.inference_mode()
    def loop() -> list[Tensor]:  # kept until all are there, as the call does
        answers = []
        for span in spans:
            qkv = (q[None, span], k[None, span], v[None, span])
            length = span.stop - span.start
            if rope is None:
                answers.append(torch_baseline.sdpa(*qkv))
            else:
                answers.append(torch_baseline.attend(*qkv, cos[:length], sin[:length]))
        return answers

    how = "rotated before" if rope is None else "rotation included"
    title = f"ragged {count} x {least}-{most} float32, {how}"
    flops = 2.0 * HEAD_DIM * HEADS * float((lengths * (lengths + 1)).sum())
    run, check = lambda: attend(call), lambda: _check(title, call)
    return Case(title, run, check, "plain loop", loop, flops, "GFLOP/s")


def _check(title: str, call: Attend) -> None:
    got = attend(call).out
    q, k, v = (t.flatten(0, 1) if t.ndim == 4 else t for t in (call.q, call.k, call.v))
    q_ends = [0, len(q)] if call.cu_seqlens_q is None else call.cu_seqlens_q.tolist()
    k_ends = [0, len(k)] if call.cu_seqlens_k is None else call.cu_seqlens_k.tolist()
    for q_span, k_span in zip(pairwise(q_ends), pairwise(k_ends), strict=True):
        q_part, k_part, v_part = q[slice(*q_span)], k[slice(*k_span)], v[slice(*k_span)]
        if call.rope is not None:
            at = torch.arange(len(k_part))
            q_part = oracle.rotate(q_part, at[len(k_part) - len(q_part) :])
            k_part = oracle.rotate(k_part, at)
        expected = oracle.attend(q_part, k_part, v_part)
        oracle.check(title, got.view(-1, *got.shape[-2:])[slice(*q_span)], expected)


def _tensors(queries: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    seeded = torch.Generator().manual_seed(0)
    shapes = ((queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS))
    q, k, v = (torch.randn(1, *shape, HEAD_DIM, generator=seeded).to(dtype) for shape in shapes)
    return q, k, v


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
