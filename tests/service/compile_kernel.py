"""Compile one small kernel for a GPU that is not there; run as a script.

Prints a line of JSON: whether Triton's cache had the kernel, and the size of its binary.
"""

import json
import sys

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime import driver

from rope_core.kernels.offline import OfflineDriver


@triton.jit
def double_kernel(x_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n)
    tl.store(x_ptr + offsets, 2 * x, mask=offsets < n)


def main():
    hits = []
    knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    driver.set_active(OfflineDriver(90))
    kernel = double_kernel.warmup(torch.empty(4), 4, BLOCK=128, grid=(1,))
    json.dump({"hits": hits, "num_bytes": len(kernel.asm["cubin"])}, sys.stdout)


if __name__ == "__main__":
    main()
