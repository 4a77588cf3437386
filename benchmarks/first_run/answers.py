"""Every kind of call of our kernels against float64, with the tolerances of `gpu_cases.reference`.

A row is a group of calls that differ in one option each: the largest error, and the failed calls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.first_run import attention_groups
from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Function, Provider, ProviderFactory
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, nan_like, randn

Group = Mapping[str, ProviderFactory]
"""Calls by the name of the option that each of them tests."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NUM_TOKENS, NUM_PARTS = 100, 5
MAX_POSITION = 1_000_000
BATCH_SIZE = 7


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each group of calls."""
    for name, group in groups(sizes):
        yield _check_group(name, group)
    for name, batch, singles in batches(sizes):
        yield _check_batch(name, batch, singles)


def groups(sizes: Sizes) -> Iterator[tuple[str, Group]]:
    """Yield groups that are compared with float64. Tensors are created by the factories."""
    for dtype, layout, source in product(DTYPES, ("half", "interleaved"), ("table", "positions")):
        name = f"rotate {dtype_name(dtype)}, {layout}, by {source}"
        yield name, _rotations(sizes, dtype, layout, source == "table")
    for dtype in DTYPES:
        yield f"merge {dtype_name(dtype)}", _merges(sizes, dtype)
    yield from attention_groups.groups(sizes)


def batches(sizes: Sizes) -> Iterator[tuple[str, Function, Sequence[Function]]]:
    """Yield a name, a call with BATCH_SIZE sequences, and a separate call for each sequence."""
    lengths = [1 + 5 * i for i in range(BATCH_SIZE)]
    xs = [randn(sizes, sum(lengths), h, sizes.head_dim) for h in sizes.heads]
    positions = torch.randint(MAX_POSITION, (sum(lengths),), device=sizes.device)
    inv_freq = _frequencies(sizes, sizes.head_dim)

    def rotation(tokens: slice) -> Function:
        inputs = [x[tokens] for x in xs]
        outs = nan_like(*inputs)
        return kernels.rotate_at(inputs, outs, positions[tokens], inv_freq, "half")

    singles = [rotation(tokens) for tokens in reference.seq_slices(lengths)]
    yield "rotate", rotation(slice(None)), singles
    yield from attention_groups.batches(sizes, BATCH_SIZE)


def _check_group(name: str, group: Group) -> Row:
    errors, failed = [], []
    for label, factory in group.items():
        try:
            errors.append(reference.check(factory()))
        except Exception as exc:  # any error is a row, and the other calls run
            failed.append(f"{label}: {type(exc).__name__}: {exc}")
    if failed:
        return failure(name, f"{len(failed)} of {len(group)} calls: {'; '.join(failed)}")
    return Row(name=name, error=max(errors), verdict="right", note=f"{len(group)} calls")


def _check_batch(name: str, batch: Function, singles: Sequence[Function]) -> Row:
    name = f"{name}, alone and in a batch of {len(singles)}"
    try:
        batched = batch()
        separate = reference.concatenate([[x.clone() for x in single()] for single in singles])
        equal = all(torch.equal(a, b) for a, b in zip(batched, separate, strict=True))
    except Exception as exc:  # any error is a row, and the other calls run
        return failure(name, exc)
    if not equal:
        return failure(name, "results are not bit-equal")
    return Row(name=name, verdict="right", note="bit-equal")


def _rotations(sizes: Sizes, dtype: torch.dtype, layout: str, from_table: bool) -> Group:
    head_dim = sizes.head_dim

    def rotation(first: int = 0, rotary_dim: int = head_dim, in_place: bool = False) -> Provider:
        xs = [randn(sizes, NUM_TOKENS, h, head_dim, dtype=dtype) for h in sizes.heads]
        rows = torch.randint(NUM_TOKENS, (NUM_TOKENS,), device=sizes.device)
        expected = reference.rotation(xs, rows + first, layout, rotary_dim)
        outs = xs if in_place else nan_like(*xs)
        if from_table:
            positions = torch.arange(first, first + NUM_TOKENS, device=sizes.device)
            tables = torch_baseline.tables(positions, rotary_dim)
            table = [t[:, 0, : rotary_dim // 2].contiguous() for t in tables]
            run = kernels.rotate(xs, outs, table, rows, layout)
        else:
            inv_freq = _frequencies(sizes, rotary_dim)
            run = kernels.rotate_at(xs, outs, rows + first, inv_freq, layout)
        return Provider("ours", run, expected)

    return {
        "whole heads": rotation,
        "a part of each head": lambda: rotation(rotary_dim=head_dim // 2),
        "in place": lambda: rotation(in_place=True),
        "at 1e6": lambda: rotation(first=MAX_POSITION),
    }


def _frequencies(sizes: Sizes, rotary_dim: int) -> Tensor:
    pairs = torch.arange(0, rotary_dim, 2, dtype=torch.float64, device=sizes.device)
    return 1e4 ** -(pairs / rotary_dim)


def _merges(sizes: Sizes, dtype: torch.dtype) -> Group:
    def merge(change: Callable[[Tensor, Tensor], None]) -> Provider:
        parts = randn(sizes, NUM_PARTS, NUM_TOKENS, sizes.head_dim, dtype=dtype)
        lse = 3 * randn(sizes, NUM_PARTS, NUM_TOKENS, dtype=torch.float32)
        change(parts, lse)
        expected = reference.merge(parts, lse)
        run = kernels.merge_parts(parts, lse, *nan_like(parts[0], lse[0]))
        return Provider("ours", run, expected)

    def hide(parts: Tensor, lse: Tensor) -> None:
        lse[1] = -torch.inf  # one part of every row
        lse[:, 3] = -torch.inf  # every part of one row

    def hide_nan(parts: Tensor, lse: Tensor) -> None:
        hide(parts, lse)
        parts[1], parts[:, 3] = torch.nan, torch.nan

    def set_nan_lse(parts: Tensor, lse: Tensor) -> None:
        lse[2, 5] = torch.nan

    return {
        "all parts": lambda: merge(lambda *_: None),
        "-inf": lambda: merge(hide),
        "NaN where the log-sum-exp is -inf": lambda: merge(hide_nan),
        "a log-sum-exp of NaN": lambda: merge(set_nan_lse),
    }
