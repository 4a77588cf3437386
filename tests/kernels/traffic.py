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
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rope_core.kernels import merge, rotary

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int64: "i64"}
KERNELS = rotary.rotary_kernel, merge.merge_kernel
BF16, FLOAT32 = torch.bfloat16, torch.float32


class Compiles:
    """Takes a kernel's place, and compiles it for what it is launched with."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, None

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, num_warps=4, **named):
        given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
        signature, constants, aligned = {}, {}, {}
        for i, parameter in enumerate(self.kernel.params):
            value = given[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = f"*{TYPES[value.dtype]}"
                if not parameter.do_not_specialize_on_alignment and value.data_ptr() % 16 == 0:
                    aligned[(i,)] = [["tt.divisibility", 16]]
            else:
                assert isinstance(value, float) or parameter.do_not_specialize
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        source = ASTSource(self.kernel, signature, constants, aligned)
        target = GPUTarget("cuda", 90, 32)
        self.compiled = triton.compile(source, target=target, options={"num_warps": num_warps})


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


def rotation(dtype, layout, heads=(32, 8), head_dim=128, rotary_dim=None, *, table=False):
    rotary_dim = rotary_dim or head_dim
    xs = [torch.empty(4, h, head_dim, dtype=dtype) for h in heads]
    outs = [torch.empty_like(x) for x in xs]
    ids, half = torch.zeros(4, dtype=torch.int64), rotary_dim // 2
    how = {"rotary_dim": rotary_dim, "layout": layout}
    if table:
        rotary.rotate(xs, outs, *torch.empty(2, 16, half), rows=ids, **how)
    else:
        rotary.rotate_at(xs, outs, ids, torch.empty(half, dtype=torch.float64), **how)


def pages():
    k, ids = torch.empty(4, 8, 16, 128, dtype=BF16), torch.zeros(4, dtype=torch.int64)
    freq = torch.empty(64, dtype=torch.float64)
    rotary.shift_pages(k, ids, ids, freq, rotary_dim=128, layout="half")


def merging(dtype, out_dtype, width):
    out, lse = torch.empty(8, width, dtype=out_dtype), torch.empty(4, 8)
    merge.merge(torch.empty(4, 8, width, dtype=dtype), lse, out, torch.empty(8))


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

if __name__ == "__main__":
    for name, case in CASES.items():
        rotary.rotary_kernel, merge.merge_kernel = stands_in = [Compiles(k) for k in KERNELS]
        case()
        (compiled,) = (k.compiled for k in stands_in if k.compiled is not None)
        print(json.dumps({"case": name, **what_it_takes(compiled)}), flush=True)
