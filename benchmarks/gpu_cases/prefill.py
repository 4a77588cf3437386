"""Prompts: over cuDNN and the floor, ragged over dense, rotated first over attended alone.

Floating-point operations are those that causality leaves.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.gpu_cases import decode, floors, kernels, other_attention, truth
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes, poison, randn
from rope_core import AttentionConfig

CUDNN_FROM = 4096
"""Least length that the goal is set for."""


def ragged(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield the one of many lengths."""
    count, least, most = sizes.ragged
    yield f"prefill {count} x {least}-{most}, ragged", partial(_ragged, sizes)


def fused(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield those that rotate first."""
    for length, most in sizes.fused:
        yield f"rotate and attend S={length}", partial(_fused, sizes, length, most)
        if not sizes.dry:
            name = f"rotate, and attend by cuDNN S={length}"
            yield name, partial(_fused, sizes, length, most, by_cudnn=True)


def dense(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield those of one length."""
    for width in sizes.widths:
        for length in sizes.prompts:
            yield f"prefill S={length}, D={width}", partial(_dense, sizes, length, width)
    name = f"prefill S={sizes.prompts[-1] // 8}, D={sizes.head_dim}, float32"
    yield name, partial(_dense, sizes, sizes.prompts[-1] // 8, sizes.head_dim, torch.float32)


def grouped(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield those of one length whose heads share keys, as in packs."""
    heads, kv_heads = sizes.heads
    for length in sizes.prompts:
        name = f"prefill S={length}, D={sizes.head_dim}, heads {heads}/{kv_heads}"
        yield name, partial(_dense, sizes, length, sizes.head_dim, heads=sizes.heads)


def masked(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield one with a mask, and one with a window."""
    yield f"prefill S={sizes.masked}, a bool mask", partial(_masked, sizes)
    name = f"prefill S={sizes.prompts[-1]}, a window of {sizes.window}"
    yield name, partial(_window, sizes)


def _dense(
    sizes: Sizes,
    length: int,
    width: int,
    dtype: torch.dtype = torch.bfloat16,
    heads: tuple[int, int] | None = None,
) -> Case:
    lengths = [length] * max(1, sizes.tokens // length)
    q_heads, kv_heads = heads or (sizes.hidden // width,) * 2
    shapes = [(sum(lengths), h, width) for h in (q_heads, kv_heads, kv_heads)]
    q, k, v = (randn(sizes, *shape, dtype=dtype) for shape in shapes)
    told = truth.attention(q, k, v, lengths, lengths)
    flops = _flops(lengths, q_heads, width)
    over = [floors.over_floor(sizes, flops, 2.0 * (q.nbytes + k.nbytes), dtype)]
    if not sizes.dry and dtype == torch.bfloat16:
        least = 0.6 if width == 128 and length >= CUDNN_FROM else None
        for name, way in (("cuDNN", other_attention.sdpa), ("cuDNN, lse", other_attention.cudnn)):
            over.append(Over(name, [(way(q, k, v, len(lengths), told), 1.0)], least))
    own = Side("own", kernels.attend(q, k, v, lengths, lengths), told)
    makes = other_attention.prompts(q, k, v, lengths, told)
    return Case(own, over, flops, "TFLOP/s", others=makes)


def _masked(sizes: Sizes) -> Case:
    lengths = [sizes.masked]
    q, k, v = _qkv(sizes, sizes.masked)
    mask = torch.rand(1, 1, sizes.masked, sizes.masked, device=sizes.device) < 0.9
    mask |= torch.eye(sizes.masked, dtype=torch.bool, device=sizes.device)
    told = truth.attention(q, k, v, lengths, lengths, mask=mask)
    own = Side("own", kernels.attend(q, k, v, lengths, lengths, mask=mask), told)
    told = truth.attention(q, k, v, lengths, lengths)
    plain_call = Side("no mask", kernels.attend(q, k, v, lengths, lengths), told)
    flops = _flops(lengths, sizes.heads[0], sizes.head_dim)
    return Case(own, [Over("no mask", [(plain_call, 1.0)])], flops, "TFLOP/s")


def _window(sizes: Sizes) -> Case:
    length, window = sizes.prompts[-1], sizes.window
    q, k, v = _qkv(sizes, length)
    config = AttentionConfig(window=window)
    told = truth.attention(q, k, v, [length], [length], config=config)
    own = Side("own", kernels.attend(q, k, v, [length], [length], config=config), told)
    heads, width = sizes.heads[0], sizes.head_dim
    flops = _flops([length], heads, width) - _flops([length - window], heads, width)
    over = floors.over_floor(sizes, flops, 2.0 * (q.nbytes + k.nbytes))
    return Case(own, [over], flops, "TFLOP/s")


def _ragged(sizes: Sizes) -> Case:
    lengths = decode.uneven(*sizes.ragged)
    (heads, _), width = sizes.heads, sizes.head_dim
    flops, longest = _flops(lengths, heads, width), max(lengths)
    dense = [longest] * max(1, round(flops / _flops([longest], heads, width)))
    q, k, v = _qkv(sizes, sum(lengths))
    told = truth.attention(q, k, v, lengths, lengths)
    own = Side("own", kernels.attend(q, k, v, lengths, lengths), told)
    makes = other_attention.prompts(q, k, v, lengths, told, even=False)
    name, qkv = f"{len(dense)} x {longest}", _qkv(sizes, sum(dense))
    told = truth.attention(*qkv, dense, dense)
    even = Side(name, kernels.attend(*qkv, dense, dense), told)
    over = Over(name, [(even, flops / _flops(dense, heads, width))], least=0.85)
    return Case(own, [over], flops, "TFLOP/s", others=makes)


def _fused(sizes: Sizes, length: int, most: float, by_cudnn: bool = False) -> Case:
    lengths = [length] * max(1, sizes.tokens // length)
    q, k, v = _qkv(sizes, sum(lengths))
    positions = torch.arange(length, device=sizes.device).repeat(len(lengths))
    tables = plain.tables(torch.arange(length, device=sizes.device), sizes.head_dim)
    table = [t[:, 0, : sizes.head_dim // 2].contiguous() for t in tables]
    turned = [x.to(q.dtype) for x in truth.rotation([q, k], positions).tensors()]
    told = truth.attention(*turned, v, lengths, lengths)
    outs = poison(q, k)
    rotate = kernels.rotate([q, k], outs, table, positions, "half")
    if by_cudnn:
        alone, after = (other_attention.sdpa(*qk, v, len(lengths), told) for qk in (turned, outs))
        other_attention.probe(alone)
    else:
        alone = Side("alone", kernels.attend(*turned, v, lengths, lengths), told)
        after = Side("after", kernels.attend(*outs, v, lengths, lengths), told)

    def run() -> Sequence[Tensor]:
        rotate()
        return after.run()

    own = Side("own", run, after.truth, after.read)
    flops = _flops(lengths, sizes.heads[0], sizes.head_dim)
    return Case(own, [Over("attend alone", [(alone, 1.0)], most=most)], flops, "TFLOP/s")


def _qkv(sizes: Sizes, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads = sizes.heads
    q, k, v = (randn(sizes, tokens, h, sizes.head_dim) for h in (heads, kv_heads, kv_heads))
    return q, k, v


def _flops(lengths: Sequence[int], heads: int, width: int) -> float:
    return 2.0 * width * heads * sum(n * (n + 1) for n in lengths)
