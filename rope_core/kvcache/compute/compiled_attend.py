"""Attention from few queries to pages by compiled code: one call for the rows of many plans.

The extension is missing where there was no compiler; `attend` computes the same there.
"""

from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from rope_core.backends.work import UNBOUNDED
from rope_core.compiled import DTYPES
from rope_core.kvcache.compute.page_memory import PageMemory
from rope_core.kvcache.compute.rotation import Queries
from rope_core.kvcache.plan import LayerPlan, RowPlan

name = "compiled"

LANES = 8
"""Widths of heads are multiples of this."""

DTYPES_OF_PAGES = {**DTYPES, torch.float8_e4m3fn: 3}
"""Dtypes of stored keys and values, and their numbers in the extension."""

MAX_ROWS = 64
"""Most queries times heads of a group: more are faster as products of matrices."""


@lru_cache(maxsize=1)
def extension() -> ModuleType | None:
    """Return the extension, or None if it is missing."""
    try:
        from rope_core import _paged_attention
    except ImportError:
        return None
    return _paged_attention


def can_attend(plan: LayerPlan, row: RowPlan) -> bool:
    """Tell whether compiled code attends from the queries of a row."""
    group = plan.group
    return (
        row.num_queries * group.num_heads <= MAX_ROWS * group.num_kv_heads
        and not (group.head_dim % LANES or group.value_dim % LANES)
        and extension() is not None
    )


@dataclass(slots=True)
class Batch:
    """Rows that one call of the extension attends to: of one pool, group, dtype of q and of out."""

    plan: LayerPlan
    memory: PageMemory
    out_dtype: torch.dtype
    sinks: Tensor | None
    num_rows: int = 0
    num_products: int = 0
    numbers: "array[int]" = field(default_factory=lambda: array("q", (0,)))
    """The work as the extension reads it."""

    kept: list[Tensor] = field(default_factory=list)
    """Tensors whose addresses are in `numbers`."""

    def add(
        self, plan: LayerPlan, row: RowPlan, queries: Queries, rows: slice, out: Tensor, lse: Tensor
    ) -> None:
        """Add a row.

        Args:
            plan: the layer.
            row: its segments and queries.
            queries: of the plan.
            rows: those of the row.
            out: `[Tq, H, Dv]`, contiguous, of all queries of the plan.
            lse: float32 `[Tq, H]`, contiguous.
        """
        mask_numbers = 0, 0, 0
        if row.tail_mask is not None:
            mask = row.tail_mask.contiguous()
            mask_numbers = mask.data_ptr(), mask.stride(0), mask.shape[1]
            self.kept.append(mask)
        index, num_keys, heads = row.q_index, 0, out.shape[1]
        width, head_dim = heads * out.shape[2], plan.group.head_dim
        self.kept += out, lse
        self.numbers.extend(
            (
                row.num_queries,
                out.data_ptr() + rows.start * width * out.element_size(),
                lse.data_ptr() + rows.start * heads * lse.element_size(),
                *(*mask_numbers, row.num_keys, len(row.segments)),
                *(index if isinstance(index, range) else index.tolist()),
            )
        )
        for segment in row.segments:
            (q, first), pages = queries.find(rows, segment.shift), segment.page_groups
            address = q.data_ptr() + first * heads * head_dim * q.element_size()
            self.kept.append(q)
            num_keys += segment.num_keys
            self.numbers.extend(
                (
                    *(address, segment.first_slot, segment.num_keys),
                    *(segment.first_place, segment.first_index, len(pages)),
                )
            )
            self.numbers.frombytes(np.add(pages, plan.layer_in_group, dtype=np.int64).tobytes())
        self.num_rows += 1
        self.num_products += row.num_queries * num_keys * (width + heads * head_dim)

    def run(self) -> None:
        """Attend, and write every element of out and lse of all rows."""
        plan, shape, memory = self.plan, self.plan.pool.shape, self.memory
        config, scales = plan.group.attention, memory.scales
        left, right = UNBOUNDED, 0 if config.causal else UNBOUNDED
        if config.window is not None:
            left, right = config.window - 1, config.window_ahead
        self.numbers[0] = self.num_rows
        module = extension()
        assert module is not None, "checked by can_attend"
        module.attend(
            self.numbers.buffer_info()[0],
            *(memory.key_address, memory.value_address),
            *(memory.key_page_bytes, memory.value_page_bytes),
            *(shape.page_tokens, shape.num_kv_heads, plan.group.num_heads // shape.num_kv_heads),
            *(shape.head_dim, shape.value_dim, DTYPES_OF_PAGES[shape.dtype]),
            DTYPES[self.out_dtype],
            *(left, right, config.chunk or 0),
            0 if self.sinks is None else self.sinks.data_ptr(),
            *(torch.get_num_threads(), self.num_products, DTYPES[plan.dtype]),
            *((0, 0) if scales is None else (scales.data_ptr(), scales.stride(0))),
            shape.head_dim**-0.5 if config.scale is None else float(config.scale),
            config.softcap or 0.0,
        )
