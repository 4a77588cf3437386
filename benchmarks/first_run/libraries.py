"""cuDNN attention: the cost of a new length in each thread, and its log-sum-exp."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases import library_attention, reference
from benchmarks.gpu_cases.case import Provider, Reference
from benchmarks.gpu_cases.sizes import Sizes, randn

LENGTHS, DRY_RUN_LENGTHS = (520, 1032, 2056, 4104, 8200), (24, 40)
"""Sequence lengths that no earlier step has used."""

CHECK_LENGTH, DRY_RUN_CHECK_LENGTH = 1024, 16


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the cost of new lengths, then the errors against float64."""
    for length in DRY_RUN_LENGTHS if sizes.dry_run else LENGTHS:
        yield from _time_calls(sizes, length)
    length = DRY_RUN_CHECK_LENGTH if sizes.dry_run else CHECK_LENGTH
    kv_heads, head_dim = sizes.heads[1], sizes.head_dim
    for name, heads, dim in (
        ("heads 1:1", (kv_heads, kv_heads), head_dim),
        ("grouped heads", sizes.heads, head_dim),
        (f"D={2 * head_dim}", (kv_heads, kv_heads), 2 * head_dim),
    ):
        yield _check(f"cuDNN out, {name}", sizes, length, heads, dim)
    yield _check_lse(sizes, length)


def _time_calls(sizes: Sizes, length: int) -> Iterator[Row]:
    """Time the first two calls of a length, then its first call in another thread."""
    run = _provider(sizes, length, sizes.heads, sizes.head_dim).run
    try:
        seconds = [_time(sizes, run) for _ in range(2)]
        with ThreadPoolExecutor(1) as thread:
            seconds.append(thread.submit(_time, sizes, run).result())
    except Exception as exc:  # any error is a row, and the next length runs
        yield _failure(f"cuDNN, S={length}", sizes, exc)
        return
    names = "first call", "second call", "first call of another thread"
    for name, call_s in zip(names, seconds, strict=True):
        us = None if sizes.dry_run else call_s * 1e6
        yield Row(name=f"cuDNN, S={length}, {name}", us=us)


def _time(sizes: Sizes, run: Callable[[], object]) -> float:
    with torch.inference_mode():  # set per thread
        start = time.perf_counter()
        run()
        if not sizes.dry_run:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _check(name: str, sizes: Sizes, length: int, heads: tuple[int, int], head_dim: int) -> Row:
    provider = _provider(sizes, length, heads, head_dim)
    assert provider.expected is not None
    out_only = Provider(
        provider.name,
        provider.run,
        reference.without_lse(provider.expected),
        lambda result: provider.to_tensors(result)[:1],
    )
    try:
        return Row(name=name, error=reference.check(out_only), verdict="right")
    except Exception as exc:  # any error is a row, and the next check runs
        return _failure(name, sizes, exc)


def _failure(name: str, sizes: Sizes, exc: Exception) -> Row:
    """Return the row of a failed call: a missed goal of cuDNN, in a dry run a failure."""
    row = failure(name, exc)
    return row if sizes.dry_run else replace(row, goal="right", verdict="missed")


def _check_lse(sizes: Sizes, length: int) -> Row:
    """Check that the log-sum-exp is a natural logarithm of shape `[B, H, S, 1]`."""
    name, goal = "cuDNN's log-sum-exp", "natural, [B, H, S, 1]"
    provider = _provider(sizes, length, sizes.heads, sizes.head_dim)
    assert provider.expected is not None
    result = provider.run()
    actual, expected = provider.to_tensors(result)[1], provider.expected.tensors()[1]
    tolerance = reference.LSE_TOLERANCE[torch.bfloat16]
    scales = {"natural": 1.0, "of base 2": torch.tensor(2.0).log().item()}
    errors = {
        base: reference.error(actual.double() * scale, expected)[0]
        for base, scale in scales.items()
    }
    base = min(errors, key=lambda name: errors[name])
    shape, expected_shape = [*result[1].shape], [*result[0].shape[:3], 1]
    kind = base if errors[base] <= tolerance else "neither natural nor of base 2"
    met = errors["natural"] <= tolerance and (shape == expected_shape or sizes.dry_run)
    verdict = "met" if met else "missed"
    note = f"shape {shape}, {kind}"
    return Row(name=name, error=errors[base], goal=goal, verdict=verdict, note=note)


def _provider(sizes: Sizes, length: int, heads: tuple[int, int], head_dim: int) -> Provider:
    q_heads, kv_heads = heads
    shapes = [(length, count, head_dim) for count in (q_heads, kv_heads, kv_heads)]
    q, k, v = (randn(sizes, *shape) for shape in shapes)
    expected = reference.attention(q, k, v, [length], [length])
    if sizes.dry_run:
        return _cpu_attention(q, k, v, expected)
    return library_attention.cudnn(q, k, v, 1, expected)


def _cpu_attention(q: Tensor, k: Tensor, v: Tensor, expected: Reference) -> Provider:
    """Return PyTorch's operator for the CPU in place of cuDNN.

    The operator needs as many heads of k and v as of q, so they are repeated.
    """
    group = q.shape[1] // k.shape[1]
    qkv = [x[None].transpose(1, 2) for x in (q, *(x.repeat_interleave(group, 1) for x in (k, v)))]
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    run = partial(attend, *qkv, 0.0, True)
    return Provider("CPU attention", run, expected, lambda result: _pack(*result))


def _pack(out: Tensor, lse: Tensor) -> list[Tensor]:
    """Convert `[1, H, S, D]` and `[1, H, S]` to `[S, H, D]` and `[S, H]`."""
    return [out[0].transpose(0, 1), lse[0].T]
