"""Seconds until a kernel that was never built has run once, and what it takes of triton's cache."""

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Case, Make, Run, Side
from benchmarks.gpu_cases.decode import in_pages
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, poison, randn

TOKENS = 100


class FirstCall:
    """A run whose first call finds an empty cache, and is timed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.seconds: float | None = None
        self.cache_bytes = 0

    def __call__(self) -> Any:
        if self.seconds is not None:
            return self._run()
        kept = os.environ.get("TRITON_CACHE_DIR")
        with TemporaryDirectory() as folder:
            os.environ["TRITON_CACHE_DIR"] = folder
            start = time.perf_counter()
            answer = self._run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - start
            files = (file for file in Path(folder).rglob("*") if file.is_file())
            self.cache_bytes = sum(file.stat().st_size for file in files)
        os.environ.pop("TRITON_CACHE_DIR")
        if kept is not None:
            os.environ["TRITON_CACHE_DIR"] = kept
        return answer


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them; no other call of a process comes before them."""
    yield "build rotary, by positions", partial(_rotate, sizes)
    yield "build merge", partial(_merge, sizes)
    for way in ("packed", "pages"):
        yield f"build decode, {way}", partial(_attend, sizes, 1, way == "pages")
    yield "build prefill", partial(_attend, sizes, sizes.heads[0] * 4, False)


def _rotate(sizes: Sizes) -> Case:
    xs = [randn(sizes, TOKENS, h, sizes.head_dim) for h in sizes.heads]
    positions = torch.arange(TOKENS, device=sizes.device)
    run = kernels.rotate_at(xs, poison(*xs), positions, frequencies(sizes), "half")
    return _first(run, reference.rotation(xs, positions))


def _merge(sizes: Sizes) -> Case:
    parts = randn(sizes, 4, TOKENS, sizes.head_dim)
    lse = randn(sizes, 4, TOKENS, dtype=torch.float32)
    run = kernels.merge_parts(parts, lse, *poison(parts[0], lse[0]))
    return _first(run, reference.merging(parts, lse))


def _attend(sizes: Sizes, queries: int, paged: bool) -> Case:
    heads, kv_heads = sizes.heads
    q = randn(sizes, queries, heads, sizes.head_dim)
    k, v = (randn(sizes, TOKENS + queries, kv_heads, sizes.head_dim) for _ in range(2))
    lengths: Sequence[Sequence[int]] = ([queries], [len(k)])
    keys, table = (k, v), None
    if paged:
        slab, table = in_pages(k, v, [len(k)], sizes.page_size)
        keys = slab[:, 0], slab[:, 1]
    run = kernels.attend(q, *keys, *lengths, block_table=table)
    return _first(run, reference.attention(q, k, v, *lengths))


def _first(run: Run, expected: reference.Truth) -> Case:
    first = FirstCall(run)

    def note() -> str:
        return f"{first.cache_bytes / 1e6:.2f} MB of cache"

    measure = lambda: {"own": [first.seconds or 0.0]}  # noqa: E731
    return Case(Side("own", first, expected), [], 0.0, measure=measure, note=note)
