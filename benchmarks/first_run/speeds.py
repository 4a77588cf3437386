"""The calls that matter most, beside their floors; `benchmarks.gpu` measures all of them."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import append, decode, merge, prefill, rotation
from benchmarks.gpu_cases.case import Make
from benchmarks.gpu_cases.sizes import Sizes

PROMPTS = (4096, 16_384)


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each call and each thing that it is held against."""
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield four rotations, two mergers, decode, an append, and causal prompts."""
    if not sizes.dry:
        sizes = replace(sizes, prompts=PROMPTS, batches=sizes.batches[:1], appended=(32,))
    yield from _first(4, rotation.cases(sizes))
    yield from _first(2, merge.cases(sizes))
    yield from _first(5, decode.cases(sizes))
    yield from append.cases(sizes)
    yield from _first(len(sizes.widths) * len(sizes.prompts), prefill.dense(sizes))
    yield from prefill.grouped(sizes)


def _first(count: int, cases: Iterator[tuple[str, Make]]) -> Iterator[tuple[str, Make]]:
    for _, case in zip(range(count), cases, strict=False):
        yield case
