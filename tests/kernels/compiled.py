"""Compile the kernels of attention for GPUs that are not there; run as a script of its own.

    python -m tests.kernels.compiled suite  # the cases that the suite checks
    python -m tests.kernels.compiled all 8  # the whole table, by 8 processes

Prints one line of JSON for each kernel, with its registers and shared memory, and a summary.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import triton

from rope_core.kernels.offline import MAX_SHARED_MEM
from tests.kernels.attention_cases import FLOAT32, SUITE, candidates, launches, whole_table

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

QUERIES = {"prefill": 4_096, "decode": 1, "append": 17, "merge": 1}
NAMES = {"merge": "merge_kernel"}


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


def resources(compiled):
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
    """Return the resources of the kernel of a case, or why the kernel does not compile."""
    line = {"case": str(case), "arch": case.arch, "kernel": case.kernel, "dtype": str(case.dtype)}
    line |= {"width": max(case.head_dim, case.value_dim), "paged": case.page_size is not None}
    try:
        launched = launches(case, [QUERIES[case.kernel]], [4_096])
        name = NAMES.get(case.kernel, "attention_kernel")
        (launch,) = (x for x in launched if x.launcher.kernel.fn.__name__ == name)
        return line | resources(build(launch))
    except Exception as error:  # a compiler may raise anything
        return line | {"failure": f"{type(error).__name__}: {error}"[:300]}


def compile_all(cases, num_processes):
    """Yield the line of each case; one process is this one, others import torch for themselves."""
    if num_processes == 1:
        yield from map(compile_case, cases)
        return
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        yield from pool.map(compile_case, cases)


def main(which="suite", processes="1"):
    cases = {"suite": SUITE, "all": whole_table() + candidates()}[which]
    started = time.monotonic()
    lines = []
    for line in compile_all(cases, int(processes)):
        print(json.dumps(line), flush=True)
        lines.append(line)
    built = [line for line in lines if "failure" not in line]
    spilled = [line for line in built if line["stack"] > allowed_stack(line)]
    summary = {
        "triton": triton.__version__,
        "compiled": len(built),
        "failures": len(lines) - len(built),
        "seconds": round(time.monotonic() - started),
        "too_much_shared": sum(line["shared"] > MAX_SHARED_MEM[line["arch"]] for line in built),
        "spilled": len(spilled),
        "worst_stack": max(built, key=lambda line: line["stack"], default=None),
        "worst_shared": max(built, key=lambda line: line["shared"], default=None),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])
