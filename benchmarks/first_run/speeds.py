"""The most important cases of `benchmarks.gpu`, compared with their floors."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import append, decode, merge, prefill, rotation
from benchmarks.gpu_cases.case import CaseFactory
from benchmarks.gpu_cases.sizes import Sizes

PROMPT_LENGTHS = (4096, 16_384)


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each comparison of each case."""
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield four rotations, two merges, decodes, an append, and causal prompts."""
    if not sizes.dry_run:
        sizes = replace(
            sizes,
            prompt_lengths=PROMPT_LENGTHS,
            decode_batches=sizes.decode_batches[:1],
            append_queries=(32,),
        )
    yield from islice(rotation.cases(sizes), 4)
    yield from islice(merge.cases(sizes), 2)
    yield from islice(decode.cases(sizes), 5)
    yield from append.cases(sizes)
    yield from islice(prefill.dense(sizes), len(sizes.head_dims) * len(sizes.prompt_lengths))
    yield from prefill.grouped(sizes)
