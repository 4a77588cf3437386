"""Prompts: compared with cuDNN and a floor, ragged with equal lengths, rotated with not rotated.

Floating-point operations are those of the pairs that the causal mask keeps.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.gpu_cases import decode, floors, kernels, library_attention, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.sizes import Sizes, nan_like, randn
from rope_core import AttentionConfig

MIN_GOAL_LENGTH = 4096
"""Shortest prompt that has a goal relative to cuDNN."""


def ragged(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the case of a batch with many lengths."""
    count, shortest, longest = sizes.ragged_lengths
    yield f"prefill {count} x {shortest}-{longest}, ragged", partial(_ragged, sizes)


def fused(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the cases that rotate q and k before attention."""
    for length, max_ratio in sizes.fused_lengths:
        yield f"rotate and attend S={length}", partial(_fused, sizes, length, max_ratio)
        if not sizes.dry_run:
            name = f"rotate, and attend by cuDNN S={length}"
            yield name, partial(_fused, sizes, length, max_ratio, with_cudnn=True)


def dense(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the cases of batches with equal lengths."""
    for head_dim in sizes.head_dims:
        for length in sizes.prompt_lengths:
            yield f"prefill S={length}, D={head_dim}", partial(_dense, sizes, length, head_dim)
    length = sizes.prompt_lengths[-1] // 8
    name = f"prefill S={length}, D={sizes.head_dim}, float32"
    yield name, partial(_dense, sizes, length, sizes.head_dim, torch.float32)


def grouped(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the cases of equal lengths with grouped-query attention."""
    heads, kv_heads = sizes.heads
    for length in sizes.prompt_lengths:
        name = f"prefill S={length}, D={sizes.head_dim}, heads {heads}/{kv_heads}"
        yield name, partial(_dense, sizes, length, sizes.head_dim, heads=sizes.heads)


def masked(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield a case with a mask and a case with a window."""
    yield f"prefill S={sizes.masked_length}, a bool mask", partial(_masked, sizes)
    name = f"prefill S={sizes.prompt_lengths[-1]}, a window of {sizes.window_size}"
    yield name, partial(_window, sizes)


def _dense(
    sizes: Sizes,
    length: int,
    head_dim: int,
    dtype: torch.dtype = torch.bfloat16,
    heads: tuple[int, int] | None = None,
) -> Case:
    lengths = [length] * max(1, sizes.tokens // length)
    q_heads, kv_heads = heads or (sizes.hidden_size // head_dim,) * 2
    shapes = [(sum(lengths), h, head_dim) for h in (q_heads, kv_heads, kv_heads)]
    q, k, v = (randn(sizes, *shape, dtype=dtype) for shape in shapes)
    expected = reference.attention(q, k, v, lengths, lengths)
    flops = _flops(lengths, q_heads, head_dim)
    comparisons = [floors.copy_roofline(sizes, flops, 2.0 * (q.nbytes + k.nbytes), dtype)]
    if not sizes.dry_run and dtype == torch.bfloat16:
        min_ratio = 0.6 if head_dim == 128 and length >= MIN_GOAL_LENGTH else None
        providers = {"cuDNN": library_attention.sdpa, "cuDNN, lse": library_attention.cudnn}
        for name, create in providers.items():
            provider = create(q, k, v, len(lengths), expected)
            comparisons.append(Comparison(name, [(provider, 1.0)], min_ratio))
    ours = Provider("ours", kernels.attend(q, k, v, lengths, lengths), expected)
    libraries = library_attention.prefills(q, k, v, lengths, expected)
    return Case(ours, comparisons, flops, "TFLOP/s", libraries=libraries)


def _masked(sizes: Sizes) -> Case:
    lengths = [sizes.masked_length]
    q, k, v = _qkv(sizes, sizes.masked_length)
    shape = 1, 1, sizes.masked_length, sizes.masked_length
    mask = torch.rand(shape, device=sizes.device) < 0.9
    mask |= torch.eye(sizes.masked_length, dtype=torch.bool, device=sizes.device)
    expected = reference.attention(q, k, v, lengths, lengths, mask=mask)
    ours = Provider("ours", kernels.attend(q, k, v, lengths, lengths, mask=mask), expected)
    expected = reference.attention(q, k, v, lengths, lengths)
    unmasked = Provider("no mask", kernels.attend(q, k, v, lengths, lengths), expected)
    flops = _flops(lengths, sizes.heads[0], sizes.head_dim)
    return Case(ours, [Comparison("no mask", [(unmasked, 1.0)])], flops, "TFLOP/s")


def _window(sizes: Sizes) -> Case:
    length, window = sizes.prompt_lengths[-1], sizes.window_size
    q, k, v = _qkv(sizes, length)
    config = AttentionConfig(window=window)
    expected = reference.attention(q, k, v, [length], [length], config=config)
    ours = Provider("ours", kernels.attend(q, k, v, [length], [length], config=config), expected)
    heads, head_dim = sizes.heads[0], sizes.head_dim
    flops = _flops([length], heads, head_dim) - _flops([length - window], heads, head_dim)
    comparison = floors.copy_roofline(sizes, flops, 2.0 * (q.nbytes + k.nbytes))
    return Case(ours, [comparison], flops, "TFLOP/s")


def _ragged(sizes: Sizes) -> Case:
    lengths = decode.uneven_lengths(*sizes.ragged_lengths)
    (heads, _), head_dim = sizes.heads, sizes.head_dim
    flops, longest = _flops(lengths, heads, head_dim), max(lengths)
    dense = [longest] * max(1, round(flops / _flops([longest], heads, head_dim)))
    q, k, v = _qkv(sizes, sum(lengths))
    expected = reference.attention(q, k, v, lengths, lengths)
    ours = Provider("ours", kernels.attend(q, k, v, lengths, lengths), expected)
    libraries = library_attention.prefills(q, k, v, lengths, expected, equal_lengths=False)
    name, qkv = f"{len(dense)} x {longest}", _qkv(sizes, sum(dense))
    expected = reference.attention(*qkv, dense, dense)
    baseline = Provider(name, kernels.attend(*qkv, dense, dense), expected)
    share = flops / _flops(dense, heads, head_dim)
    comparison = Comparison(name, [(baseline, share)], min_ratio=0.85)
    return Case(ours, [comparison], flops, "TFLOP/s", libraries=libraries)


def _fused(sizes: Sizes, length: int, max_ratio: float, with_cudnn: bool = False) -> Case:
    lengths = [length] * max(1, sizes.tokens // length)
    q, k, v = _qkv(sizes, sum(lengths))
    positions = torch.arange(length, device=sizes.device)
    tables = torch_baseline.tables(positions, sizes.head_dim)
    table = [t[:, 0, : sizes.head_dim // 2].contiguous() for t in tables]
    positions = positions.repeat(len(lengths))
    rotated = [x.to(q.dtype) for x in reference.rotation([q, k], positions).tensors()]
    expected = reference.attention(*rotated, v, lengths, lengths)
    outs = nan_like(q, k)
    rotate = kernels.rotate([q, k], outs, table, positions, "half")

    def attention(q: Tensor, k: Tensor) -> Provider:
        if with_cudnn:
            return library_attention.sdpa(q, k, v, len(lengths), expected)
        return Provider("attend", kernels.attend(q, k, v, lengths, lengths), expected)

    attend_only, attend_outs = attention(*rotated), attention(*outs)
    if with_cudnn:
        library_attention.check_available(attend_only)

    def run() -> Sequence[Tensor]:
        rotate()
        return attend_outs.run()

    ours = Provider("ours", run, attend_outs.expected, attend_outs.to_tensors)
    flops = _flops(lengths, sizes.heads[0], sizes.head_dim)
    comparison = Comparison("attend alone", [(attend_only, 1.0)], max_ratio=max_ratio)
    return Case(ours, [comparison], flops, "TFLOP/s")


def _qkv(sizes: Sizes, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads = sizes.heads
    q, k, v = (randn(sizes, tokens, h, sizes.head_dim) for h in (heads, kv_heads, kv_heads))
    return q, k, v


def _flops(lengths: Sequence[int], heads: int, head_dim: int) -> float:
    return 2.0 * head_dim * heads * sum(n * (n + 1) for n in lengths)
