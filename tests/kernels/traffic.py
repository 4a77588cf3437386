"""Compile the kernels that memory bounds for a GPU that need not be there; run as a script.

Prints a line of JSON for each case: what a thread takes, and how wide it reads and writes.
"""

import json
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
from triton.runtime import driver

from rope_core.kernels import merge, rotary
from rope_core.kernels.offline import OfflineDriver

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
BF16, FLOAT32 = torch.bfloat16, torch.float32


class Compiles:
    """Takes a kernel's place: compiles it for what it is launched with, if that is news."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, None

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **named):
        self.compiled = self.kernel.warmup(*args, grid=(1,), **named)

    def how_often(self):
        return sum(len(cache[0]) for cache in self.kernel.device_caches.values())


def what_it_takes(compiled):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([CUOBJDUMP, how, file.name], capture_output=True, text=True, check=True)
            for how in ("--dump-resource-usage", "--dump-sass")
        )
    accesses = Counter(re.findall(r"\b(?:LDG|STG)\.E[.\w]*", sass.stdout))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage.stdout)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage.stdout)[1]),
        "local": len(re.findall(r"\b(?:LDL|STL)\b", sass.stdout)),
        "shared": compiled.metadata.shared,
        "reads_16": accesses["LDG.E.128"],
        "writes_16": accesses["STG.E.128"],
        "accesses": dict(accesses),
    }


def rotation(dtype, layout, heads=(32, 8), head_dim=128, rotary_dim=None, *, table=False, tokens=4):
    rotary_dim = rotary_dim or head_dim
    xs = [torch.empty(tokens, h, head_dim, dtype=dtype) for h in heads]
    outs = [torch.empty_like(x) for x in xs]
    ids, half = torch.zeros(tokens, dtype=torch.int64), rotary_dim // 2
    how = {"rotary_dim": rotary_dim, "layout": layout}
    if table:
        rotary.rotate(xs, outs, *torch.empty(2, 16, half), rows=ids, **how)
    else:
        rotary.rotate_at(xs, outs, ids, torch.empty(half, dtype=torch.float64), **how)


def pages():
    k, ids = torch.empty(4, 8, 16, 128, dtype=BF16), torch.zeros(4, dtype=torch.int64)
    freq = torch.empty(64, dtype=torch.float64)
    rotary.shift_pages(k, ids, ids, freq, rotary_dim=128, layout="half")


def merging(dtype, out_dtype, width, *, parts=4, rows=8):
    x, lse = torch.empty(parts, rows, width, dtype=dtype), torch.empty(parts, rows)
    merge.merge(x, lse, torch.empty(rows, width, dtype=out_dtype), torch.empty(rows))


CASES = {
    "half bf16": lambda: rotation(BF16, "half"),
    "half fp32": lambda: rotation(FLOAT32, "half"),
    "half bf16 table": lambda: rotation(BF16, "half", table=True),
    "interleaved bf16": lambda: rotation(BF16, "interleaved"),
    "interleaved fp32": lambda: rotation(FLOAT32, "interleaved"),
    "interleaved bf16 table": lambda: rotation(BF16, "interleaved", table=True),
    "half fp32 of 72": lambda: rotation(FLOAT32, "half", (16, 16), 72),
    "interleaved bf16 32 of 80": lambda: rotation(BF16, "interleaved", (32, 32), 80, 32),
    "pages": pages,
    "merge bf16": lambda: merging(BF16, BF16, 128),
    "merge fp32": lambda: merging(FLOAT32, FLOAT32, 128),
}


def compiled_of_calls():
    """Return how often kernels are compiled for calls of one model that differ in all else."""
    before = sum(kernel.how_often() for kernel in KERNELS)
    for number in (1, 2, 3, 16, 17, 256):
        packed = torch.empty(number, 48, 64, dtype=BF16)
        xs, ids = [packed[:, :32], packed[:, 32:40]], torch.arange(2 * number)[number:]
        freq = torch.empty(32, dtype=torch.float64)
        for inverse in (True, False):
            rotary.rotate_at(xs, xs, ids, freq, rotary_dim=64, layout="half", inverse=inverse)
        rotation(BF16, "half", head_dim=64, tokens=number)
        for rows in (1, 7, 16):
            merging(BF16, BF16, 64, parts=number, rows=rows)
    return sum(kernel.how_often() for kernel in KERNELS) - before


if __name__ == "__main__":
    driver.set_active(OfflineDriver(90))
    KERNELS = Compiles(rotary.rotary_kernel), Compiles(merge.merge_kernel)
    rotary.rotary_kernel, merge.merge_kernel = KERNELS
    for name, case in CASES.items():
        case()
        compiled = KERNELS[name.startswith("merge")].compiled
        print(json.dumps({"case": name, **what_it_takes(compiled)}), flush=True)
    print(json.dumps({"case": "calls", "compiled": compiled_of_calls()}))
