"""Attention, compared with a matrix product, a copy of K and V, and a loop of plain torch calls."""

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
    """Yield the cases one by one, so that only the tensors of one case are in memory."""
    for dtype in (torch.float32, torch.bfloat16):
        for length in sizes.prompt_lengths:
            yield _prefill(length, sizes.matmul_size, dtype)
    for dtype in (torch.float32, torch.bfloat16):
        for heads_first in (False, True):
            yield _decode(sizes.cached_keys, None, dtype, heads_first)
        yield _decode(sizes.cached_keys, ROPE, dtype)
    for rope in (None, ROPE):
        yield _ragged(*sizes.ragged_lengths, rope)


def _prefill(length: int, matmul_size: int, dtype: torch.dtype) -> Case:
    q, k, v = _tensors(length, length, dtype)
    call = Attend(q, k, v, ROPE)
    a, b = torch.randn(2, matmul_size, matmul_size).to(dtype).unbind()
    title = f"prefill S={length} {_name(dtype)}, rotation included"
    product = torch.empty_like(a)
    return Case(
        title,
        lambda: attend(call),
        lambda: _check(title, call),
        f"mm {matmul_size}^3",
        lambda: torch.mm(a, b, out=product),
        2.0 * HEAD_DIM * HEADS * length * (length + 1),  # visible pairs of q @ k.T and @ v
        "GFLOP/s",
        2.0 * matmul_size**3,
    )


def _decode(
    num_keys: int, rope: RopeConfig | None, dtype: torch.dtype, heads_first: bool = False
) -> Case:
    q, k, v = _tensors(1, num_keys, dtype)
    if heads_first:  # memory layout of a cache that stores the keys of a head together
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    call = Attend(q, k, v, rope, q_positions=torch.tensor([num_keys - 1]))
    k_copy, v_copy = torch.empty_like(k), torch.empty_like(v)
    kind = "rotating" if rope is not None else "heads first" if heads_first else "rotated before"
    title = f"decode Sk={num_keys} {_name(dtype)}, {kind}"
    return Case(
        title,
        lambda: attend(call),
        lambda: _check(title, call),
        "copy of k, v",
        lambda: (k_copy.copy_(k), v_copy.copy_(v)),
        2.0 * (k.nbytes + v.nbytes),
    )


def _ragged(count: int, shortest: int, longest: int, rope: RopeConfig | None) -> Case:
    lengths = torch.linspace(shortest, longest, count).long()[torch.randperm(count)]
    cu_seqlens = [0, *lengths.cumsum(0).tolist()]
    q, k, v = (t[0] for t in _tensors(cu_seqlens[-1], cu_seqlens[-1], torch.float32))
    offsets = torch.tensor(cu_seqlens)
    call = Attend(q, k, v, rope, cu_seqlens_q=offsets, cu_seqlens_k=offsets)
    sequences = [slice(*ends) for ends in pairwise(cu_seqlens)]
    cos, sin = torch_baseline.tables(torch.arange(longest), HEAD_DIM)

    @torch.inference_mode()
    def loop() -> list[Tensor]:  # keeps all outputs in memory, like the call
        outs = []
        for tokens in sequences:
            qkv = (q[None, tokens], k[None, tokens], v[None, tokens])
            length = tokens.stop - tokens.start
            if rope is None:
                outs.append(torch_baseline.sdpa(*qkv))
            else:
                outs.append(torch_baseline.attend(*qkv, cos[:length], sin[:length]))
        return outs

    kind = "rotated before" if rope is None else "rotation included"
    title = f"ragged {count} x {shortest}-{longest} float32, {kind}"
    flops = 2.0 * HEAD_DIM * HEADS * float((lengths * (lengths + 1)).sum())
    run, check = lambda: attend(call), lambda: _check(title, call)
    return Case(title, run, check, "plain loop", loop, flops, "GFLOP/s")


def _check(title: str, call: Attend) -> None:
    out = attend(call).out
    q, k, v = (t.flatten(0, 1) if t.ndim == 4 else t for t in (call.q, call.k, call.v))
    q_ends = [0, len(q)] if call.cu_seqlens_q is None else call.cu_seqlens_q.tolist()
    k_ends = [0, len(k)] if call.cu_seqlens_k is None else call.cu_seqlens_k.tolist()
    for q_span, k_span in zip(pairwise(q_ends), pairwise(k_ends), strict=True):
        q_part, k_part, v_part = q[slice(*q_span)], k[slice(*k_span)], v[slice(*k_span)]
        if call.rope is not None:
            positions = torch.arange(len(k_part))
            q_part = oracle.rotate(q_part, positions[len(k_part) - len(q_part) :])
            k_part = oracle.rotate(k_part, positions)
        expected = oracle.attend(q_part, k_part, v_part)
        oracle.check(title, out.view(-1, *out.shape[-2:])[slice(*q_span)], expected)


def _tensors(queries: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS))
    q, k, v = (torch.randn(1, *shape, HEAD_DIM, generator=generator).to(dtype) for shape in shapes)
    return q, k, v


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
