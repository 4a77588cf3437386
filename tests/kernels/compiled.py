"""Compile the kernels of attention for a GPU that need not be there; run as a script of its own.

Prints one line of JSON for each kernel of each case: what it takes of a multiprocessor.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rope_core.kernels import decode, parts, prefill
from rope_core.kernels.attention import attend

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
OPTIONS = "num_warps", "num_stages"
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


class Recorder:
    """Stands where a kernel was, and compiles it for what it is launched with."""

    def __init__(self, kernel, found):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **named):
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
        signature, constants, divisible = {}, {}, {}
        for at, parameter in enumerate(self.kernel.params):
            name, value = parameter.name, given[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[name], constants[name] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
            else:
                signature[name] = "i32" if isinstance(value, int) else "fp32"
            if isinstance(value, int) and value == 1 and not parameter.do_not_specialize:
                signature[name], constants[name] = "constexpr", 1
            elif isinstance(value, torch.Tensor) or (
                isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
            ):
                divisible[(at,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, divisible)
        compiled = triton.compile(source, target=TARGET, options=options)
        self.found.append((self.kernel.fn.__name__, compiled))


def used(compiled):
    """Return registers of a thread, its bytes of stack, and shared bytes of a block."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK")}
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "shared": compiled.metadata.shared,
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
        "mma": compiled.asm["ptx"].count("mma.sync"),
        "copies": compiled.asm["ptx"].count("cp.async.cg"),
    }


def compiled(dtype, head_dim, num_queries, *, value_dim=None, group=4, page_size=None, **config):
    """Return name and compiled kernel of all that is launched for one sequence of keys."""
    found = []
    kept = prefill.prefill_kernel, decode.decode_kernel, parts.merge_kernel
    prefill.prefill_kernel, decode.decode_kernel, parts.merge_kernel = (
        Recorder(kernel, found) for kernel in kept
    )
    num_keys, kv_heads = 4_096, 8
    value_dim = value_dim or head_dim
    pages = (num_keys // page_size, kv_heads, page_size) if page_size else (num_keys, kv_heads)
    q = torch.empty(num_queries, kv_heads * group, head_dim, dtype=dtype)
    k, v = (torch.empty(*pages, width, dtype=dtype) for width in (head_dim, value_dim))
    out = torch.empty(*q.shape[:2], value_dim, dtype=dtype)
    ends = [torch.tensor([0, n], dtype=torch.int32) for n in (num_queries, num_keys)]
    table = torch.zeros(1, num_keys // page_size, dtype=torch.int32) if page_size else None
    attend(
        *(q, k, v, out, torch.empty(q.shape[:2])),
        cu_seqlens_q=ends[0],
        cu_seqlens_k=ends[1],
        lengths_q=[num_queries],
        lengths_k=[num_keys],
        scale=head_dim**-0.5,
        block_table=table,
        **{"causal": True} | config,
    )
    prefill.prefill_kernel, decode.decode_kernel, parts.merge_kernel = kept
    return found


BF16, FLOAT32 = torch.bfloat16, torch.float32
CASES = {
    "prefill bfloat16 64": (BF16, 64, 4_096, {}),
    "prefill bfloat16 128": (BF16, 128, 4_096, {}),
    "prefill bfloat16 256": (BF16, 256, 4_096, {}),
    "prefill float32 128": (FLOAT32, 128, 4_096, {}),
    "prefill bfloat16 128 in pages": (BF16, 128, 4_096, {"page_size": 16}),
    "decode bfloat16 128": (BF16, 128, 1, {}),
    "decode bfloat16 128, more rows": (BF16, 128, 16, {}),
    "decode float32 128": (FLOAT32, 128, 1, {}),
    "decode bfloat16 128 in pages": (BF16, 128, 1, {"page_size": 16}),
}


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        *given, more = CASES[case]
        for name, kernel in compiled(*given, **more):
            print(json.dumps({"case": case, "kernel": name, **used(kernel)}), flush=True)
