"""StreamingLLM over a cache: each token is a step and an eviction, for as long as you like.

`python -m tests.kvcache_oracle.streaming` runs 100,000 steps and prints what grows: nothing should.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.run import LayerInput, run_layers
from tests.kvcache_oracle.attention import attend
from tests.kvcache_oracle.configurations import Configuration, Group
from tests.kvcache_oracle.library import library_config

SINKS, RECENT = 4, 12
PAGE_TOKENS = 4


class Sample(NamedTuple):
    """What was measured at a step."""

    step: int
    segments: int
    used_bytes: int
    python_blocks: int
    """Blocks of memory that Python's objects have."""
    resident_bytes: int
    """Memory of the process."""
    error: float
    """Relative error of an answer against float64."""


def stream(num_steps: int, num_samples: int = 10, dtype: str = "float32") -> list[Sample]:
    """Run steps of one row of one layer, and measure now and then."""
    group = Group(layers=(0,))
    config = Configuration((group,), dtype)
    arena = Arena(2**20, page_tokens=PAGE_TOKENS, slab_bytes=2**16)
    cache = KVCache(library_config(config), arena, 1, SINKS + RECENT + 1)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4096, 2, group.head_dim, generator=generator, dtype=torch.float64)
    numbers = numbers.to(getattr(torch, dtype))
    queries = torch.randn(1, group.heads, group.head_dim, generator=generator).to(numbers.dtype)
    kept: list[int] = []
    samples = []
    for step in range(num_steps):
        k, v = numbers[step % 4096].split(1)
        pending = cache.plan([0], num_new=[1], num_queries=[1])
        (output,) = run_layers([LayerInput(pending.layers[0], queries, k[None], v[None])])
        cache.commit(pending)
        kept.append(step % 4096)
        if (step + 1) % (num_steps // num_samples) == 0:
            assert output.out is not None
            error = _error(group, queries, numbers[kept], output.out)
            segments = max(cache.num_segments)
            blocks = sys.getallocatedblocks()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            memory = (arena.used_bytes, blocks, resident)
            samples.append(Sample(step + 1, segments, *memory, error))
        if len(kept) > SINKS + RECENT:
            cache.evict(SINKS, len(kept) - RECENT)
            del kept[SINKS : len(kept) - RECENT]
    cache.close()
    assert (arena.used_bytes, arena.reserved_bytes) == (0, 0)
    return samples


def _error(group: Group, q: torch.Tensor, stored: torch.Tensor, out: torch.Tensor) -> float:
    places = np.arange(len(stored), dtype=np.float64)[:, None]
    k, v = (stored[:, i, None].double().numpy() for i in (0, 1))
    seen = np.ones((1, len(stored)), dtype=bool)
    expected, _ = attend(group, q.double().numpy(), places[-1:], k, places, v, seen)
    difference = out.double().numpy() - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--dtype", default="float32")
    chosen = parser.parse_args()
    start = time.perf_counter()
    for sample in stream(chosen.steps, dtype=chosen.dtype):
        print(*sample)  # noqa: T201
    print(f"{time.perf_counter() - start:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
