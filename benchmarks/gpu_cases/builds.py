"""First call of each kernel with an empty Triton cache: seconds, and bytes added to the cache."""

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Function, Provider, Reference
from benchmarks.gpu_cases.decode import to_pages
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, nan_like, randn

NUM_TOKENS = 100


class FirstCall:
    """Wrap a function: its first call runs with an empty Triton cache and is timed."""

    def __init__(self, run: Function) -> None:
        self._run = run
        self.seconds: float | None = None
        self.cache_bytes = 0

    def __call__(self) -> Any:
        if self.seconds is not None:
            return self._run()
        previous = os.environ.get("TRITON_CACHE_DIR")
        with TemporaryDirectory() as folder:
            os.environ["TRITON_CACHE_DIR"] = folder
            start = time.perf_counter()
            result = self._run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - start
            files = (file for file in Path(folder).rglob("*") if file.is_file())
            self.cache_bytes = sum(file.stat().st_size for file in files)
        os.environ.pop("TRITON_CACHE_DIR")
        if previous is not None:
            os.environ["TRITON_CACHE_DIR"] = previous
        return result


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case. They must run first in their process."""
    yield "build rotary, by positions", partial(_rotate, sizes)
    yield "build merge", partial(_merge, sizes)
    for kv_layout in ("packed", "pages"):
        yield f"build decode, {kv_layout}", partial(_attend, sizes, 1, kv_layout == "pages")
    yield "build prefill", partial(_attend, sizes, sizes.heads[0] * 4, False)


def _rotate(sizes: Sizes) -> Case:
    xs = [randn(sizes, NUM_TOKENS, h, sizes.head_dim) for h in sizes.heads]
    positions = torch.arange(NUM_TOKENS, device=sizes.device)
    run = kernels.rotate_at(xs, nan_like(*xs), positions, frequencies(sizes), "half")
    return _first_call(run, reference.rotation(xs, positions))


def _merge(sizes: Sizes) -> Case:
    parts = randn(sizes, 4, NUM_TOKENS, sizes.head_dim)
    lse = randn(sizes, 4, NUM_TOKENS, dtype=torch.float32)
    run = kernels.merge_parts(parts, lse, *nan_like(parts[0], lse[0]))
    return _first_call(run, reference.merge(parts, lse))


def _attend(sizes: Sizes, num_queries: int, paged: bool) -> Case:
    heads, kv_heads = sizes.heads
    q = randn(sizes, num_queries, heads, sizes.head_dim)
    shape = NUM_TOKENS + num_queries, kv_heads, sizes.head_dim
    k, v = (randn(sizes, *shape) for _ in range(2))
    lengths: Sequence[Sequence[int]] = ([num_queries], [len(k)])
    keys_values, block_table = (k, v), None
    if paged:
        pages, block_table = to_pages(k, v, [len(k)], sizes.page_size)
        keys_values = pages[:, 0], pages[:, 1]
    run = kernels.attend(q, *keys_values, *lengths, block_table=block_table)
    return _first_call(run, reference.attention(q, k, v, *lengths))


def _first_call(run: Function, expected: Reference) -> Case:
    first_call = FirstCall(run)

    def note() -> str:
        return f"{first_call.cache_bytes / 1e6:.2f} MB of cache"

    measure = lambda: {"ours": [first_call.seconds or 0.0]}  # noqa: E731
    return Case(Provider("ours", first_call, expected), [], 0.0, measure=measure, note=note)
