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

from rope_core.kernels.masking import FAR
from rope_core.kernels.tiles import cdiv

FEW_ROWS = 16
"""Up to so many rows share the smallest tile."""

SOME_ROWS = 64
"""Up to so many rows, and all rows of one query, are always attended to in parts of the keys."""

SPLIT_ROWS = 1_024
"""Up to so many rows are attended to in parts where there are KEYS_PER_ROW keys for each."""

KEYS_PER_ROW = 16

PART_KEYS = 512
"""Keys of a part, for each SOME_ROWS rows: programs and partial results grow with the keys only."""

MERGED_ROWS = 4
"""Rows that a program merges."""

RECORD = tl.constexpr(8)
"""Numbers in the record of a sequence, at these places."""

FIRST_PROGRAM = tl.constexpr(0)  # of its kernel's programs
FIRST_MERGE = tl.constexpr(1)  # of the merging kernel's programs
START = tl.constexpr(2)  # the first key that is seen
PART_LENGTH = tl.constexpr(3)  # keys of a part
NUM_PARTS = tl.constexpr(4)
SLOT = tl.constexpr(5)  # its first row among partial results


@triton.jit
def find_sequence(program, work_ptr, programs_at):
    """Return the sequence of a program, int64, and where its record is."""
    seq = tl.load(work_ptr + programs_at + program).to(tl.int64)
    return seq, work_ptr + seq * RECORD


class Programs(NamedTuple):
    """Programs of a kernel, for each head of keys: one number each in the work list."""

    at: int
    total: int


class WorkList(NamedTuple):
    """Work of a call."""

    table: Tensor
    """int32 on the device: a record for each sequence, then the sequence of each program, then
    where the queries and the keys of each sequence start."""

    few: Programs
    some: Programs
    prefill: Programs
    merge: Programs

    slots: int
    """Rows of partial results, each for all heads of keys."""

    def cu_seqlens(self, num_seqs: int) -> tuple[Tensor, Tensor]:
        """Return where the queries and the keys of each sequence start: `[N + 1]`."""
        at = self.merge.at + self.merge.total
        first, last = at + num_seqs + 1, at + 2 * num_seqs + 2
        return self.table[at:first], self.table[first:last]


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
    """Return the work list of a call, brought to the device in one copy.

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
    work = _on_host(tuple(lengths_q), tuple(lengths_k), group, block_m, unbounded, behind, chunk)
    return work._replace(table=work.table.to(device, non_blocking=True))


@lru_cache(maxsize=32)
def _on_host(
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    group: int,
    block_m: tuple[int, int, int],
    unbounded: bool,
    behind: int,
    chunk: int,
) -> WorkList:
    """Return a work list whose table is on the CPU. All layers of a model have the same one."""
    of_few, of_some, of_prefill = block_m
    records: list[int] = []
    few: list[int] = []
    some: list[int] = []
    prefill: list[int] = []
    merge: list[int] = []
    slots = 0
    for seq, (num_queries, num_keys) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        rows = num_queries * group
        start = 0 if unbounded else first_key(num_keys - num_queries, behind, chunk)
        if rows <= FEW_ROWS:
            programs, block, part_keys = few, of_few, PART_KEYS
        elif (
            rows <= SOME_ROWS
            or num_queries == 1
            or (rows <= SPLIT_ROWS and num_keys - start >= rows * KEYS_PER_ROW)
        ):
            programs, block = some, of_some
            part_keys = PART_KEYS * cdiv(rows, SOME_ROWS)
        else:
            records += (len(prefill), 0, 0, 0, 0, 0, 0, 0)
            prefill += [seq] * cdiv(rows, of_prefill)
            continue
        num_parts = cdiv(num_keys, part_keys) - start // part_keys
        records += (len(programs), len(merge), start, part_keys, num_parts, slots, 0, 0)
        programs += [seq] * (num_parts * cdiv(rows, block))
        merge += [seq] * cdiv(rows, MERGED_ROWS)
        slots += num_parts * rows
    starts = (*accumulate(lengths_q, initial=0), *accumulate(lengths_k, initial=0))
    numbers = array("i", (*records, *few, *some, *prefill, *merge, *starts))
    at = [*accumulate(map(len, (records, few, some, prefill)))]
    return WorkList(
        torch.frombuffer(numbers, dtype=torch.int32),
        few=Programs(at[0], len(few)),
        some=Programs(at[1], len(some)),
        prefill=Programs(at[2], len(prefill)),
        merge=Programs(at[3], len(merge)),
        slots=slots,
    )


def first_key(position: int, behind: int, chunk: int) -> int:
    """Return the first key that a query at `position` sees, and all queries after it."""
    first = position - behind if chunk == FAR else max(position - behind, position // chunk * chunk)
    return max(0, first)
