"""Compile the memory-bound kernels for a GPU that is not there; run as a script.

Prints a line of JSON for each case: registers, shared memory, and widths of accesses.
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


class Recorder(OfflineDriver):
    """Records what is loaded: code and bytes of shared memory."""

    def __init__(self):
        super().__init__(90)
        self.loaded = []
        load_binary = self.utils.load_binary

        def load(name, cubin, shared, device):
            self.loaded.append((cubin, shared))
            return load_binary(name, cubin, shared, device)

        self.utils.load_binary = load


def resources(cubin, shared):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True
            )
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    accesses = Counter(re.findall(r"\b(?:LDG|STG)\.E[.\w]*", sass.stdout))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage.stdout)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage.stdout)[1]),
        "local": len(re.findall(r"\b(?:LDL|STL)\b", sass.stdout)),
        "shared": shared,
        "reads_16": accesses["LDG.E.128"],
        "writes_16": accesses["STG.E.128"],
        "accesses": dict(accesses),
    }


def rotation(dtype, layout, heads=(32, 8), head_dim=128, rotary_dim=None, *, table=False, tokens=4):
    rotary_dim = rotary_dim or head_dim
    xs = [torch.empty(tokens, h, head_dim, dtype=dtype) for h in heads]
    outs = [torch.empty_like(x) for x in xs]
    ids, half = torch.zeros(tokens, dtype=torch.int64), rotary_dim // 2
    options = {"rotary_dim": rotary_dim, "layout": layout}
    if table:
        options["table"] = torch.empty(16, half), torch.empty(16, half)
    else:
        options["inv_freq"] = torch.empty(half, dtype=torch.float64)
    rotary.rotate(xs, outs, index=ids, **options)


def pages():
    k, ids = torch.empty(4, 8, 16, 128, dtype=BF16), torch.zeros(4, dtype=torch.int64)
    freq = torch.empty(64, dtype=torch.float64)
    k = [k.transpose(1, 2)]
    rotary.rotate(k, k, rotary_dim=128, layout="half", inv_freq=freq, index=ids, slots=ids)


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


def built_of_calls(gpu):
    """Return how many variants calls of one model build, with many token counts and strides."""
    before = len(gpu.loaded)
    for number in (1, 2, 3, 16, 17, 256):
        packed = torch.empty(number, 48, 64, dtype=BF16)
        xs, ids = [packed[:, :32], packed[:, 32:40]], torch.arange(2 * number)[number:]
        freq = torch.empty(32, dtype=torch.float64)
        options = {"rotary_dim": 64, "layout": "half", "inv_freq": freq, "index": ids}
        for inverse in (True, False):
            rotary.rotate(xs, xs, inverse=inverse, **options)
        rotation(BF16, "half", head_dim=64, tokens=number)
        for rows in (1, 7, 16):
            merging(BF16, BF16, 64, parts=number, rows=rows)
    return len(gpu.loaded) - before


if __name__ == "__main__":
    gpu = Recorder()
    driver.set_active(gpu)
    for name, case in CASES.items():
        case()
        print(json.dumps({"case": name, **resources(*gpu.loaded[-1])}), flush=True)
    print(json.dumps({"case": "calls", "built": built_of_calls(gpu)}))
