"""Compile the kernels of attention for GPUs that need not be there; run as a script of its own.

Prints one line of JSON for each kernel: what it takes of a multiprocessor.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from rope_core.kernels import attention
from rope_core.kernels.attention_tiles import TILES

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory that a block may take, by architecture."""


class AbsentGpu:
    """A GPU that is not there: enough of a driver to compile for. Its number is its architecture."""

    def __init__(self, arch):
        self.arch, self.utils = arch, self

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.arch

    def get_current_stream(self, device):
        return 0

    def get_device_properties(self, device):
        return {"max_shared_mem": SHARED_BYTES[device]}


class Case(NamedTuple):
    """A call that launches one kernel of attention."""

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


def launch_of(case, tiles=TILES):
    """Return the launch of the kernel of a case."""
    num_queries = {"prefill": 4_096, "few": 1, "some": 17, "merge": 1}[case.kernel]
    num_keys, kv_heads = 4_096, 2
    pages = (num_keys // case.page_size, kv_heads, case.page_size)
    in_memory = pages if case.page_size else (num_keys, kv_heads)
    q = torch.empty(num_queries, kv_heads * case.group, case.head_dim, dtype=case.dtype)
    k = torch.empty(*in_memory, case.head_dim, dtype=case.dtype)
    ...
