"""Decode over a cache in pages, against attention to contiguous memory in the same rounds.

    python -m benchmarks.paged_decode [--threads 1] [--rounds 15]

Shapes are those of Llama 3.1 8B: 32 heads, 8 heads of keys, 128 channels. The floor is PyTorch's
operator over keys and values that are contiguous, heads first, and rotated already. A step rotates
q and k, writes k and v to a page, and attends.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import time_interleaved
from rope_core.config import AttentionConfig, RopeConfig
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import KeySegment, LayerPlan, RowPlan
from rope_core.kvcache.pool import PagePool, PageShape
from rope_core.kvcache.run import LayerInput, run_layers

HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS = 32, 8, 128, 64
GROUP = KVGroup(
    layers=(0,),
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    value_dim=HEAD_DIM,
    rope=RopeConfig.of(HEAD_DIM, theta=500_000.0),
    attention=AttentionConfig(),
)


class FixedPages(PagePool):
    """Pages of one tensor, filled with random numbers."""

    def __init__(self, num_pages: int, dtype: torch.dtype) -> None:
        self.shape = PageShape(1, KV_HEADS, HEAD_DIM, HEAD_DIM, PAGE_TOKENS, dtype)
        self._pages = torch.randn(num_pages, 2, KV_HEADS, PAGE_TOKENS, HEAD_DIM).to(dtype)

    @property
    def keys(self) -> Tensor:
        return self._pages[:, 0]

    @property
    def values(self) -> Tensor:
        return self._pages[:, 1]


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one token by rows of `num_keys` keys, in pages that lie in any order."""

    num_rows: int
    num_keys: int
    dtype: torch.dtype

    def calls(self) -> list[LayerInput]:
        """Return a call for each row: its last key is written, and its query attends."""
        pages_of_row = -(-self.num_keys // PAGE_TOKENS)
        pool = FixedPages(self.num_rows * pages_of_row, self.dtype)
        order = torch.randperm(self.num_rows * pages_of_row).view(self.num_rows, -1)
        return [self._call(pool, pages) for pages in order.tolist()]

    def _call(self, pool: PagePool, pages: Sequence[int]) -> LayerInput:
        last = self.num_keys - 1
        position = np.array([last])
        slot = pages[last // PAGE_TOKENS] * PAGE_TOKENS + last % PAGE_TOKENS
        segment = KeySegment(np.array(pages, np.int32), 0, self.num_keys, 0, 0, (0,))
        row = RowPlan(1, 1, [segment], range(last, self.num_keys), self.num_keys)
        slots = np.array([slot])
        plan = LayerPlan(GROUP, 0, pool, 0, [row], slots, position, position, [], [], self.dtype)
        q, k, v = (torch.randn(1, h, HEAD_DIM).to(self.dtype) for h in (HEADS, KV_HEADS, KV_HEADS))
        return LayerInput(plan, q, k, v)


def floor(num_keys: int, dtype: torch.dtype) -> Callable[[], object]:
    """Return attention to contiguous keys, heads first, without rotation."""
    q = torch.randn(1, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM).to(dtype)
    k, v = torch.randn(2, 1, KV_HEADS, num_keys, HEAD_DIM).to(dtype).unbind()
    attend = torch._scaled_dot_product_flash_attention_for_cpu
    return lambda: attend(q, k, v, 0.0, False, scale=HEAD_DIM**-0.5)


def lines(rounds: int) -> Iterator[str]:
    """Yield a line for each number of rows, of keys, and dtype."""
    yield "rows   keys dtype        step us  floor us  best/best  median/median"
    for num_rows, num_keys in ((1, 128), (1, 1024), (1, 8192), (64, 128)):
        for dtype in (torch.float32, torch.bfloat16):
            calls = Steps(num_rows, num_keys, dtype).calls()
            floors = [floor(num_keys, dtype) for _ in range(num_rows)]
            runs = {
                "step": lambda calls=calls: run_layers(calls),
                "floor": lambda floors=floors: [run() for run in floors],
            }
            times = time_interleaved(runs, rounds, 0.1)
            step, alone = times["step"], times["floor"]
            yield (
                f"{num_rows:4} {num_keys:6} {str(dtype)[6:]:9} {step.fastest * 1e6:10.0f}"
                f"{alone.fastest * 1e6:10.0f} {step.fastest / alone.fastest:10.2f}"
                f"{step.median / alone.median:15.2f}"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for line in lines(options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
