"""Which programs attend to which sequence, decided on the host from the lengths alone.

A sequence has `rows` of work: its queries times the heads that share a key. Few rows, or some rows
over many keys, are attended to in parts of the keys by `decode`, and then merged; the others by
`prefill`. All of this follows from the sequence's own lengths, so that its answer has the same bits
in any batch.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.block_sizes import cdiv
from rope_core.kernels.masking import FAR

FEW_ROWS = 16
"""Up to so many rows have the smallest tile, that of the kernel "few"."""

SOME_ROWS = 64
"""Up to so many rows, and all rows of one query, always have their keys split into parts."""

SPLIT_ROWS = 1_024
"""Up to so many rows have their keys split if there are at least KEYS_PER_ROW keys for each row."""

KEYS_PER_ROW = 16

PART_KEYS = 512
"""Keys of a part, for each SOME_ROWS rows of it: the number of programs and the size of partial
results grow with the keys only."""

MERGED_ROWS = 4
"""Rows that a program merges."""

KEPT_SEQUENCES = 1_024
"""Sequences of the longest work list that is kept. Each takes 100 bytes; a call may have 10^6."""

RECORD = tl.constexpr(8)
"""Numbers in the record of a sequence. The constants below are their places in it."""

FIRST_PROGRAM = tl.constexpr(0)  # of its kernel's programs
FIRST_MERGE = tl.constexpr(1)  # of the merging kernel's programs
START = tl.constexpr(2)  # the first key that is seen
PART_LENGTH = tl.constexpr(3)  # keys of a part
NUM_PARTS = tl.constexpr(4)
FIRST_PART_ROW = tl.constexpr(5)  # its first row among partial results


@triton.jit
def find_sequence(program, work_ptr, programs_offset):
    """Return the sequence of a program, int64, and the address of its record."""
    seq = tl.load(work_ptr + programs_offset + program).to(tl.int64)
    return seq, work_ptr + seq * RECORD


class Programs(NamedTuple):
    """Programs of a kernel, for each head of keys. The work list names the sequence of each."""

    offset: int
    """Place of the first one's sequence in the table."""

    total: int


class WorkList(NamedTuple):
    """The programs of all kernels that a call launches."""

    table: Tensor
    """int32 on the device: a record for each sequence, then the sequence of each program, then
    where the queries and the keys of each sequence start."""

    few: Programs
    some: Programs
    prefill: Programs
    merge: Programs

    num_part_rows: int
    """Rows of partial results, each for all heads of keys."""

    def cu_seqlens(self, num_seqs: int) -> tuple[Tensor, Tensor]:
        """Return where the queries and the keys of each sequence start: `[N + 1]`."""
        start_q = self.merge.offset + self.merge.total
        start_k = start_q + num_seqs + 1
        return self.table[start_q:start_k], self.table[start_k : start_k + num_seqs + 1]


def work_list(
    lengths_q: Sequence[int],
    lengths_k: Sequence[int],
    *,
    group: int,
    block_m: tuple[int, int, int],
    indexed: bool,
    behind: int,
    chunk: int,
    device: torch.device,
) -> WorkList:
    """Return the work list of a call, copied to the device in one copy.

    Args:
        lengths_q: queries of each sequence.
        lengths_k: keys of each sequence.
        group: heads of q that share one of k.
        block_m: rows of a tile of few rows, of some rows, and of prefill.
        indexed: positions are in tensors, so that any key may be seen.
        behind: keys before its position that a query sees, FAR for all.
        chunk: keys of a chunk, FAR for all.
        device: where the work list goes.
    """
    unbounded = indexed or (behind == FAR and chunk == FAR)
    few = len(lengths_q) <= KEPT_SEQUENCES
    build = _build_on_host if few else _build_on_host.__wrapped__
    work = build(tuple(lengths_q), tuple(lengths_k), group, block_m, unbounded, behind, chunk)
    return work._replace(table=work.table.to(device, non_blocking=True))


@lru_cache(maxsize=32)
def _build_on_host(
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    group: int,
    block_m: tuple[int, int, int],
    unbounded: bool,
    behind: int,
    chunk: int,
) -> WorkList:
    """Return a work list whose table is on the CPU. All layers of a model have the same one."""
    few_block, some_block, prefill_block = block_m
    records: list[int] = []
    few: list[int] = []
    some: list[int] = []
    prefill: list[int] = []
    merge: list[int] = []
    num_part_rows = 0
    for seq, (num_queries, num_keys) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        rows = num_queries * group
        start = 0 if unbounded else first_key(num_keys - num_queries, behind, chunk)
        if rows <= FEW_ROWS:
            programs, block, part_keys = few, few_block, PART_KEYS
        elif (
            rows <= SOME_ROWS
            or num_queries == 1
            or (rows <= SPLIT_ROWS and num_keys - start >= rows * KEYS_PER_ROW)
        ):
            programs, block = some, some_block
            part_keys = PART_KEYS * cdiv(rows, SOME_ROWS)
        else:
            records += (len(prefill), 0, 0, 0, 0, 0, 0, 0)
            prefill += [seq] * cdiv(rows, prefill_block)
            continue
        num_parts = cdiv(num_keys, part_keys) - start // part_keys
        records += (len(programs), len(merge), start, part_keys, num_parts, num_part_rows, 0, 0)
        programs += [seq] * (num_parts * cdiv(rows, block))
        merge += [seq] * cdiv(rows, MERGED_ROWS)
        num_part_rows += num_parts * rows
    starts = (*accumulate(lengths_q, initial=0), *accumulate(lengths_k, initial=0))
    numbers = array("i", (*records, *few, *some, *prefill, *merge, *starts))
    offsets = [*accumulate(map(len, (records, few, some, prefill)))]
    return WorkList(
        torch.frombuffer(numbers, dtype=torch.int32),
        few=Programs(offsets[0], len(few)),
        some=Programs(offsets[1], len(some)),
        prefill=Programs(offsets[2], len(prefill)),
        merge=Programs(offsets[3], len(merge)),
        num_part_rows=num_part_rows,
    )


def first_key(position: int, behind: int, chunk: int) -> int:
    """Return the first key that a query at `position` sees, and all queries after it."""
    first = position - behind if chunk == FAR else max(position - behind, position // chunk * chunk)
    return max(0, first)
