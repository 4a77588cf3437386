"""cuDNN's attention: what a new length costs in each thread, and its log-sum-exp."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases import library_attention, reference
from benchmarks.gpu_cases.case import Side, Truth
from benchmarks.gpu_cases.sizes import Sizes, randn

LENGTHS, DRY_LENGTHS = (520, 1032, 2056, 4104, 8200), (24, 40)
"""Lengths of sequences that no earlier step has used."""

CHECK_LENGTH, DRY_CHECK_LENGTH = 1024, 16


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the cost of new lengths, then answers against float64."""
    for length in DRY_LENGTHS if sizes.dry else LENGTHS:
        yield from _calls(sizes, length)
    length, width = (DRY_CHECK_LENGTH if sizes.dry else CHECK_LENGTH), sizes.head_dim
    kv_heads = sizes.heads[1]
    for name, heads, head_dim in (
        ("heads 1:1", (kv_heads, kv_heads), width),
        ("grouped heads", sizes.heads, width),
        (f"D={2 * width}", (kv_heads, kv_heads), 2 * width),
    ):
        yield _answer(f"cuDNN out, {name}", sizes, length, heads, head_dim)
    yield _log_sum_exp(sizes, length)


def _calls(sizes: Sizes, length: int) -> Iterator[Row]:
    """Time the first calls of a length, then its first call in another thread."""
    run = _side(sizes, length, sizes.heads, sizes.head_dim).run
    try:
        took = [_seconds(sizes, run) for _ in range(2)]
        with ThreadPoolExecutor(1) as other:
            took.append(other.submit(_seconds, sizes, run).result())
    except Exception as why:  # any error is a row, and the next length runs
        yield _no_answer(f"cuDNN, S={length}", sizes, why)
        return
    names = "first call", "second call", "first call of another thread"
    for name, seconds in zip(names, took, strict=True):
        us = None if sizes.dry else seconds * 1e6
        yield Row(name=f"cuDNN, S={length}, {name}", us=us)


def _seconds(sizes: Sizes, run: Callable[[], object]) -> float:
    with torch.inference_mode():  # set per thread
        start = time.perf_counter()
        run()
        if not sizes.dry:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _answer(name: str, sizes: Sizes, length: int, heads: tuple[int, int], head_dim: int) -> Row:
    side = _side(sizes, length, heads, head_dim)
    assert side.truth is not None
    out = Side(side.name, side.run, reference.out_alone(side.truth), lambda got: side.read(got)[:1])
    try:
        return Row(name=name, error=reference.check(out), verdict="right")
    except Exception as why:  # any error is a row, and the next length runs
        return _no_answer(name, sizes, why)


def _no_answer(name: str, sizes: Sizes, why: Exception) -> Row:
    """Return the row of a library that cannot run: a missed goal, or a failure of the stand-in."""
    row = failure(name, why)
    return row if sizes.dry else replace(row, goal="right", verdict="missed")


def _log_sum_exp(sizes: Sizes, length: int) -> Row:
    """Tell whether the log-sum-exp is a natural logarithm `[B, H, S, 1]`."""
    name, goal = "cuDNN's log-sum-exp", "natural, [B, H, S, 1]"
    side = _side(sizes, length, sizes.heads, sizes.head_dim)
    assert side.truth is not None
    answer = side.run()
    got, true = side.read(answer)[1], side.truth.tensors()[1]
    bar = reference.LSE[torch.bfloat16]
    scales = {"natural": 1.0, "of base 2": torch.tensor(2.0).log().item()}
    errors = {
        base: reference.error(got.double() * scale, true)[0] for base, scale in scales.items()
    }
    base = min(errors, key=lambda name: errors[name])
    shape, like = [*answer[1].shape], [*answer[0].shape[:3], 1]
    note = f"shape {shape}, {base if errors[base] <= bar else 'neither natural nor of base 2'}"
    met = errors["natural"] <= bar and (shape == like or sizes.dry)
    verdict = "met" if met else "missed"
    return Row(name=name, error=errors[base], goal=goal, verdict=verdict, note=note)


def _side(sizes: Sizes, length: int, heads: tuple[int, int], head_dim: int) -> Side:
    q_heads, kv_heads = heads
    shapes = [(length, count, head_dim) for count in (q_heads, kv_heads, kv_heads)]
    q, k, v = (randn(sizes, *shape) for shape in shapes)
    expected = reference.attention(q, k, v, [length], [length])
    if sizes.dry:
        return _stand_in(q, k, v, expected)
    return library_attention.cudnn(q, k, v, 1, expected)


def _stand_in(q: Tensor, k: Tensor, v: Tensor, expected: Truth) -> Side:
    """Return PyTorch's operator for the CPU, which takes as many heads of k as of q."""
    group = q.shape[1] // k.shape[1]
    qkv = [x[None].transpose(1, 2) for x in (q, *(x.repeat_interleave(group, 1) for x in (k, v)))]
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return Side(
        "stand-in",
        partial(attend, *qkv, 0.0, True),
        expected,
        lambda answer: _tokens_first(*answer),
    )


def _tokens_first(out: Tensor, lse: Tensor) -> list[Tensor]:
    return [out[0].transpose(0, 1), lse[0].T]
