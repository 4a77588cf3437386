"""Calls that launch each kernel of attention on GPUs that are not there."""

from itertools import product
from typing import NamedTuple

import torch
from triton.runtime import driver

from benchmarks.first_run.tiles import TABLES
from rope_core import AttentionConfig
from rope_core.kernels import attention
from rope_core.kernels.offline import MAX_SHARED_MEM, OfflineDriver
from rope_core.kernels.runtime import DeviceProperties
from rope_core.kernels.tile_configs import TILES, select_tiles

HALF, BF16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32


class AbsentGpu(OfflineDriver):
    """A GPU that is not there. Its index is its architecture."""

    def get_current_device(self):
        return self.capability


class Case(NamedTuple):
    """A call that launches one kernel of attention."""

    arch: int
    kernel: str  # prefill, decode, append or merge
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
    segmented: bool = False

    def __str__(self):
        return " ".join(f"{name}={value}" for name, value in self._asdict().items() if value)

    def tiles(self):
        """Return the tiles of its candidate, None for the default."""
        if self.candidate is None:
            return None
        width, layout = max(self.head_dim, self.value_dim), "paged" if self.page_size else "packed"
        properties = DeviceProperties(self.arch, MAX_SHARED_MEM[self.arch])
        return select_tiles(TABLES[self.candidate], properties, self.dtype, width, layout)


def empty(*shape, dtype):
    return torch.empty(*shape, dtype=dtype, device="meta")


def launches(case, lengths_q, lengths_k, sinks=None, **config):
    """Return what a call launches on the GPU of a case, by tensors that take no memory."""
    driver.set_active(AbsentGpu(case.arch))
    tokens, keys, kv_heads, dtype = sum(lengths_q), sum(lengths_k), 2, case.dtype
    heads = kv_heads * case.group
    pages = case.page_size and (keys // case.page_size, kv_heads, case.page_size)
    index = empty(tokens, dtype=torch.int64), empty(keys, dtype=torch.int64)
    starts = empty(len(lengths_q) + 1, dtype=torch.int32)
    table = empty(len(lengths_q), 999, dtype=torch.int32)
    firsts = [0] * len(lengths_q)
    launched, launch_all = [], attention.launch_all
    attention.launch_all = launched.extend
    attention.attend(
        empty(tokens, heads, case.head_dim, dtype=dtype),
        empty(*(pages or (keys, kv_heads)), case.head_dim, dtype=dtype),
        empty(*(pages or (keys, kv_heads)), case.value_dim, dtype=dtype),
        empty(tokens, heads, case.value_dim, dtype=FLOAT32 if case.out_float32 else dtype),
        empty(tokens, heads, dtype=FLOAT32),
        AttentionConfig(softcap=case.softcap, **config),
        lengths=(lengths_q, lengths_k),
        cu_seqlens=(starts, starts),
        sinks=sinks,
        mask=case.mask and empty(1, 1, tokens, keys, dtype=case.mask),
        index=index if case.indexed else None,
        block_table=table if pages else None,
        segments=(table, lengths_k, firsts) if case.segmented else None,
        tiles=case.tiles(),
    )
    attention.launch_all = launch_all
    return launched


WIDTHS = (64, 64), (80, 80), (128, 128), (192, 128), (192, 192), (256, 256)
KERNELS = "prefill", "decode", "append", "merge"
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
            has_out_dtype = kernel in ("prefill", "merge") and dtype != FLOAT32
            if ("out_float32" in variant) <= has_out_dtype and (kernel != "merge" or has_out_dtype):
                cases.append(Case(arch, kernel, dtype, width, width, **variant))
    return cases


def candidates():
    """Return the tiles that benchmarks compare with those of the table, for a Hopper GPU."""
    return [
        Case(90, key[0], FLOAT32 if key[1] == "float32" else BF16, key[3], key[3],
             16 if key[2] == "paged" else None, candidate=name)
        for name, table in TABLES.items()
        for key in table if table[key] != TILES[key]
    ]  # fmt: skip


SUITE = [
    *(Case(arch, "prefill", BF16, 128, 128) for arch in MAX_SHARED_MEM),
    *(Case(arch, "prefill", BF16, 256, 256) for arch in (80, 89, 90, 100)),
    *(Case(arch, "append", BF16, 128, 128) for arch in (90, 100)),
    *(Case(arch, "append", BF16, 256, 256) for arch in (80, 120)),
    Case(90, "prefill", BF16, 64, 64),
    Case(100, "prefill", BF16, 64, 64),
    Case(90, "decode", BF16, 128, 128),
    Case(90, "decode", BF16, 128, 128, 16),
    Case(90, "decode", BF16, 128, 128, 64, segmented=True),
    Case(100, "append", BF16, 128, 128, 64, segmented=True),
    Case(90, "prefill", BF16, 128, 128, 64, segmented=True),
    Case(90, "decode", FLOAT32, 128, 128),
    Case(90, "prefill", FLOAT32, 128, 128),
    Case(90, "merge", BF16, 128, 128),
    Case(89, "prefill", BF16, 128, 128, mask=torch.bool),
]
"""The cases that the suite compiles in place of the whole table."""
