"""Copies between host and device, page-locking, and calls that may block the host."""

from collections.abc import Iterator

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import copies, host_blocking
from benchmarks.gpu_cases.sizes import Sizes


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of the same cases of `benchmarks.gpu`."""
    yield from rows_of_cases(copies.cases(sizes), sizes)
    yield from rows_of_cases(host_blocking.cases(sizes), sizes)
