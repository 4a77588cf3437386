"""Compile the kernels of attention for GPUs that need not be there; run as a script of its own.

    python -m tests.kernels.compiled few      # what the suite checks
    python -m tests.kernels.compiled all 8    # the whole table, by 8 processes
    python -m tests.kernels.compiled variants # what many calls of a model would compile

Prints one line of JSON for each kernel, what it takes of a multiprocessor, and a summary.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.runtime import driver

from rope_core.kernels import attention
from rope_core.kernels.offline import MAX_SHARED_MEM, OfflineDriver
from rope_core.kernels.tile_configs import CANDIDATES, TILES

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

HALF, BF16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32
QUERIES = {"prefill": 4_096, "few": 1, "some": 17, "merge": 1}
NAMES = {"prefill": "prefill_kernel", "merge": "merge_kernel"}


class AbsentGpu(OfflineDriver):
    """A GPU that is not there. Its index is its architecture."""

    def get_current_device(self):
        return self.capability


class Case(NamedTuple):
    """A call that launches one kernel of attention."""

    arch: int
    kernel: str  # prefill, few, some or merge
    dtype: torch.dtype
    head_dim: int
    value_dim: int
    page_size: int | None = None
    mask: torch.dtype | None = None
    indexed: bool = False
    softcap: float | None = None
    out_float32: bool = False
    group: int = 4
    candidate: str | None = None

    def __str__(self):
        given = {name: value for name, value in self._asdict().items() if value}
        return " ".join(f"{name}={value}" for name, value in given.items())


def empty(*shape, dtype):
    return torch.empty(*shape, dtype=dtype, device="meta")


def launches(case, lengths_q, lengths_k, **more):
    """Return what a call launches on the GPU of a case, by tensors that take no memory."""
    driver.set_active(AbsentGpu(case.arch))
    tokens, keys, kv_heads, dtype = sum(lengths_q), sum(lengths_k), 2, case.dtype
    heads = kv_heads * case.group
    pages = case.page_size and (keys // case.page_size, kv_heads, case.page_size)
    int64, int32 = torch.int64, torch.int32
    found, kept = [], attention.launch_all
    attention.launch_all = found.extend
    attention.attend(
        empty(tokens, heads, case.head_dim, dtype=dtype),
        empty(*(pages or (keys, kv_heads)), case.head_dim, dtype=dtype),
        empty(*(pages or (keys, kv_heads)), case.value_dim, dtype=dtype),
        empty(tokens, heads, case.value_dim, dtype=FLOAT32 if case.out_float32 else dtype),
        empty(tokens, heads, dtype=FLOAT32),
        cu_seqlens_q=empty(len(lengths_q) + 1, dtype=int32),
        cu_seqlens_k=empty(len(lengths_q) + 1, dtype=int32),
        lengths_q=lengths_q,
        lengths_k=lengths_k,
        softcap=case.softcap,
        mask=case.mask and empty(1, 1, tokens, keys, dtype=case.mask),
        q_index=empty(tokens, dtype=int64) if case.indexed else None,
        k_index=empty(keys, dtype=int64) if case.indexed else None,
        block_table=empty(len(lengths_q), 999, dtype=int32) if pages else None,
        tiles=CANDIDATES[case.candidate] if case.candidate else TILES,
        **{"scale": case.head_dim**-0.5, "causal": True} | more,
    )
    attention.launch_all = kept
    return found


def build(launch):
    """Compile what a launch needs, as Triton does at a launch."""
    return launch.launcher.kernel.warmup(
        *launch.tensors,
        *launch.numbers,
        **launch.constants,
        grid=(1,),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def key(launch):
    """Return what Triton compiles for, without doing so."""
    *_, binder = launch.launcher.kernel.device_caches[driver.active.get_current_device()]
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    _, specialization, options = binder(
        *launch.tensors, *launch.numbers, **launch.constants, debug=False, **options
    )
    return launch.launcher.kernel.fn.__name__, str(specialization), str(options)


def used(compiled):
    """Return registers of a thread, its bytes of stack, and shared bytes of a block."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK")}
    ptx = compiled.asm["ptx"]
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "shared": compiled.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "tcgen05": ptx.count("tcgen05.mma"),
        "mma": ptx.count("mma.sync"),
        "copies_16": ptx.count("cp.async.cg"),
    }


def allowed_stack(line):
    """Return bytes of stack that a thread may use.

    Float32 has no matrix unit: a head of 256 takes all registers, and a few numbers wait in memory
    outside the loops over keys.
    """
    return 192 if line["dtype"] == str(FLOAT32) and line["width"] > 128 else 0


def compile_case(case):
    """Return what the kernel of a case takes, or why it does not compile."""
    line = {"case": str(case), "arch": case.arch, "kernel": case.kernel, "dtype": str(case.dtype)}
    line |= {"width": max(case.head_dim, case.value_dim), "paged": case.page_size is not None}
    try:
        found = launches(case, [QUERIES[case.kernel]], [4_096])
        name = NAMES.get(case.kernel, "decode_kernel")
        (launch,) = (each for each in found if each.launcher.kernel.fn.__name__ == name)
        return line | used(build(launch))
    except Exception as error:  # a compiler may raise anything
        return line | {"failure": f"{type(error).__name__}: {error}"[:300]}


WIDTHS = (64, 64), (80, 80), (128, 128), (192, 128), (192, 192), (256, 256)
KERNELS = "prefill", "few", "some", "merge"
VARIANTS = (
    {"mask": torch.bool},
    {"mask": FLOAT32},
    {"indexed": True},
    {"softcap": 30.0},
    {"out_float32": True},
    {"mask": torch.bool, "softcap": 30.0, "indexed": True},
)


def whole_table():
    """Return all kernels, dtypes, widths and layouts, and each variant of each kernel and dtype."""
    cases = []
    for arch, kernel, dtype in product(MAX_SHARED_MEM, KERNELS, (HALF, BF16, FLOAT32)):
        for widths, page_size in product(WIDTHS, (None, 16)):
            if kernel != "merge" or page_size is None:
                cases.append(Case(arch, kernel, dtype, *widths, page_size))
        for width, variant in product((64, 128, 256), VARIANTS):
            of_output = kernel in ("prefill", "merge") and dtype != FLOAT32
            if ("out_float32" in variant) <= of_output and (kernel != "merge" or of_output):
                cases.append(Case(arch, kernel, dtype, width, width, **variant))
    return cases


def candidates():
    """Return what may replace a tile once it was measured, for a Hopper GPU."""
    return [
        Case(90, key[0], FLOAT32 if key[1] == "float32" else BF16, key[3], key[3],
             16 if key[2] == "paged" else None, candidate=name)
        for name, table in CANDIDATES.items()
        for key in table if table[key] != TILES[key]
    ]  # fmt: skip


FEW = [
    *(Case(arch, "prefill", BF16, 128, 128) for arch in MAX_SHARED_MEM),
    *(Case(arch, "prefill", BF16, 256, 256) for arch in (80, 89, 90, 100)),
    *(Case(arch, "some", BF16, 128, 128) for arch in (90, 100)),
    *(Case(arch, "some", BF16, 256, 256) for arch in (80, 120)),
    Case(90, "prefill", BF16, 64, 64),
    Case(100, "prefill", BF16, 64, 64),
    Case(90, "few", BF16, 128, 128),
    Case(90, "few", BF16, 128, 128, 16),
    Case(90, "few", FLOAT32, 128, 128),
    Case(90, "prefill", FLOAT32, 128, 128),
    Case(90, "merge", BF16, 128, 128),
    Case(89, "prefill", BF16, 128, 128, mask=torch.bool),
]
"""What stands for the whole table in the suite."""


def max_variants(dtype):
    """Return how many kernels all calls of one model can need, whose keys are packed."""
    of_out = 1 if dtype == FLOAT32 else 2
    of_scores = 3 * 2 * 2  # masks, positions in tensors, soft-cap
    of_decode = 2 * of_scores
    return of_scores * of_out + of_decode + of_out


def variants(dtype, calls=2_000):
    """Return how many kernels random calls of one model need, and how many they may need."""
    draw = random.Random(0)
    far = None, 1, 16, 17, 4_096, 2**31, 2**40, 2**63 - 1
    found = set()
    for _ in range(calls):
        num_seqs = draw.choice((1, 2, 3, 16, 17))
        case = Case(
            90,
            *("prefill", dtype, 128, 128),
            mask=draw.choice((None, torch.bool, HALF, BF16, FLOAT32)),
            indexed=draw.random() < 0.5,
            softcap=draw.choice((None, 1.0, 30.0)),
            out_float32=draw.random() < 0.5,
            group=draw.choice((1, 2, 4, 7, 16)),
        )
        causal = draw.random() < 0.5
        lengths = [[draw.choice((0, 1, 2, 16, 33, 400)) for _ in range(num_seqs)] for _ in range(2)]
        lengths[0][0] = max(1, lengths[0][0])
        called = launches(
            case,
            *lengths,
            scale=draw.choice((1.0, 0.1, -2.0, 16)),
            causal=causal,
            window=draw.choice(far),
            window_ahead=0 if causal else draw.choice(far[1:]),
            chunk=draw.choice(far),
            sinks=draw.choice((None, empty(2 * case.group, dtype=dtype))),
        )
        found |= {*map(key, called)}
    return {"dtype": str(dtype), "found": len(found), "allowed": max_variants(dtype)}


def main(which="few", processes="1"):
    if which == "variants":
        for dtype in (BF16, FLOAT32):
            print(json.dumps(variants(dtype)))
        return
    cases = {"few": FEW, "all": whole_table() + candidates()}[which]
    begun = time.monotonic()
    with ProcessPoolExecutor(int(processes), get_context("spawn")) as pool:
        lines = []
        for line in pool.map(compile_case, cases):
            print(json.dumps(line), flush=True)
            lines.append(line)
    built = [line for line in lines if "failure" not in line]
    spilled = [each for each in built if each["stack"] > allowed_stack(each)]
    summary = {
        "triton": triton.__version__,
        "compiled": len(built),
        "failures": len(lines) - len(built),
        "seconds": round(time.monotonic() - begun),
        "too_much_shared": sum(e["shared"] > MAX_SHARED_MEM[e["arch"]] for e in built),
        "spilled": len(spilled),
        "worst_stack": max(built, key=lambda each: each["stack"], default=None),
        "worst_shared": max(built, key=lambda each: each["shared"], default=None),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])
