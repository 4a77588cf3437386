"""Every kind of call of our kernels against float64, at the bars of `gpu_cases.truth`.

A row is a group of calls that differ in one thing each: the worst error, and the calls that failed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.first_run import attention_groups
from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Run, Side
from benchmarks.gpu_cases.sizes import Sizes, poison, randn, short

Group = Mapping[str, Callable[[], Side]]
"""Calls by what is special about each."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOKENS, PARTS = 100, 5
FAR = 1_000_000
BATCH = 7


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each group of calls."""
    for name, group in groups(sizes):
        yield _checked(name, group)
    for name, batch, alone in batches(sizes):
        yield _equal(name, batch, alone)


def groups(sizes: Sizes) -> Iterator[tuple[str, Group]]:
    """Yield calls that are compared with float64; nothing is made yet."""
    for dtype, layout, way in product(DTYPES, ("half", "interleaved"), ("table", "positions")):
        name = f"rotate {short(dtype)}, {layout}, by {way}"
        yield name, _rotations(sizes, dtype, layout, way == "table")
    for dtype in DTYPES:
        yield f"merge {short(dtype)}", _mergers(sizes, dtype)
    yield from attention_groups.groups(sizes)


def batches(sizes: Sizes) -> Iterator[tuple[str, Run, Sequence[Run]]]:
    """Yield calls of BATCH sequences, and the same sequences in calls of their own."""
    lengths = [1 + 5 * i for i in range(BATCH)]
    xs = [randn(sizes, sum(lengths), h, sizes.head_dim) for h in sizes.heads]
    ids = torch.randint(FAR, (sum(lengths),), device=sizes.device)

    def rotation(at: slice) -> Run:
        some = [x[at] for x in xs]
        return kernels.rotate_at(
            some, poison(*some), ids[at], _frequencies(sizes, sizes.head_dim), "half"
        )

    alone = [rotation(span) for span in reference.spans(lengths)]
    yield "rotate", rotation(slice(None)), alone
    yield from attention_groups.batches(sizes, BATCH)


def _checked(name: str, group: Group) -> Row:
    errors, wrong = [], []
    for label, make in group.items():
        try:
            errors.append(reference.check(make()))
        except Exception as why:  # any error is a row, and the other calls run
            wrong.append(f"{label}: {type(why).__name__}: {why}")
    if wrong:
        return failure(name, f"{len(wrong)} of {len(group)} calls: {'; '.join(wrong)}")
    return Row(name=name, error=max(errors), verdict="right", note=f"{len(group)} calls")


def _equal(name: str, batch: Run, alone: Sequence[Run]) -> Row:
    name = f"{name}, alone and in a batch of {len(alone)}"
    try:
        together = batch()
        parts = [[part.clone() for part in run()] for run in alone]
        whole = [torch.cat(each) for each in zip(*parts, strict=True)]
        equal = all(torch.equal(one, other) for one, other in zip(together, whole, strict=True))
    except Exception as why:  # any error is a row, and the other calls run
        return failure(name, why)
    if not equal:
        return failure(name, "answers differ in their bits")
    return Row(name=name, verdict="right", note="bit-equal")


def _rotations(sizes: Sizes, dtype: torch.dtype, layout: str, by_table: bool) -> Group:
    width = sizes.head_dim

    def side(first: int = 0, rotary_dim: int = width, in_place: bool = False) -> Side:
        xs = [randn(sizes, TOKENS, h, width, dtype=dtype) for h in sizes.heads]
        ids = torch.randint(TOKENS, (TOKENS,), device=sizes.device)
        expected = reference.rotation(xs, ids + first, layout, rotary_dim)
        outs = xs if in_place else poison(*xs)
        if by_table:
            positions = torch.arange(first, first + TOKENS, device=sizes.device)
            half = rotary_dim // 2
            table = [
                t[:, 0, :half].contiguous() for t in torch_baseline.tables(positions, rotary_dim)
            ]
            run = kernels.rotate(xs, outs, table, ids, layout)
        else:
            frequencies = _frequencies(sizes, rotary_dim)
            run = kernels.rotate_at(xs, outs, ids + first, frequencies, layout)
        return Side("own", run, expected)

    return {
        "whole heads": side,
        "a part of each head": lambda: side(rotary_dim=width // 2),
        "in place": lambda: side(in_place=True),
        "at 1e6": lambda: side(first=FAR),
    }


def _frequencies(sizes: Sizes, rotary_dim: int) -> Tensor:
    pairs = torch.arange(0, rotary_dim, 2, dtype=torch.float64, device=sizes.device)
    return 1e4 ** -(pairs / rotary_dim)


def _mergers(sizes: Sizes, dtype: torch.dtype) -> Group:
    def side(change: Callable[[Tensor, Tensor], None]) -> Side:
        parts = randn(sizes, PARTS, TOKENS, sizes.head_dim, dtype=dtype)
        lse = 3 * randn(sizes, PARTS, TOKENS, dtype=torch.float32)
        change(parts, lse)
        expected = reference.merging(parts, lse)
        run = kernels.merge_parts(parts, lse, *poison(parts[0], lse[0]))
        return Side("own", run, expected)

    def hide(parts: Tensor, lse: Tensor) -> None:
        lse[1] = -torch.inf
        lse[:, 3] = -torch.inf  # nothing of this row counts

    def hide_nan(parts: Tensor, lse: Tensor) -> None:
        hide(parts, lse)
        parts[1], parts[:, 3] = torch.nan, torch.nan

    def spoil(parts: Tensor, lse: Tensor) -> None:
        lse[2, 5] = torch.nan

    return {
        "all count": lambda: side(lambda *_: None),
        "-inf": lambda: side(hide),
        "NaN behind -inf": lambda: side(hide_nan),
        "a log-sum-exp of NaN": lambda: side(spoil),
    }
