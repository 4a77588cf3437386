"""Which programs attend to which sequence, decided on the host from the lengths alone.

A sequence has `rows` of work: its queries times the heads that share a key. Short sequences of
queries, and longer ones over many keys, are split along their keys (FlashDecoding): the decode
kernel attends to each split, and the merge kernel merges the splits. All other sequences go to the
prefill kernel. The choice depends on the sequence's own lengths only, so that its answer has the
same bits in any batch.
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
from rope_core.kernels.masking import UNLIMITED, KeyLimits

DECODE_ROWS = 16
"""Sequences of up to this many rows take the tile "decode", the smallest."""

APPEND_ROWS = 64
"""Sequences of up to this many rows, and all of one query, are always split along their keys."""

MAX_SPLIT_ROWS = 1_024
"""Sequences of up to this many rows are split if they have MIN_KEYS_PER_ROW keys for each row."""

MIN_KEYS_PER_ROW = 16

SPLIT_KEYS = 512
"""Keys of a split, for each APPEND_ROWS rows: the number of programs and the size of the partial
results grow with the keys only."""

MERGE_ROWS = 4
"""Rows that a program merges."""

MAX_CACHED_SEQUENCES = 1_024
"""Sequences of the longest schedule that is cached. A sequence takes 100 bytes; a call may have
10^6."""

RECORD = tl.constexpr(8)
"""Numbers in the record of a sequence. The constants below are indices into the record."""

FIRST_PROGRAM = tl.constexpr(0)  # of the kernel that attends
FIRST_MERGE_PROGRAM = tl.constexpr(1)
FIRST_KEY = tl.constexpr(2)  # the first key that a query sees
SPLIT_LENGTH = tl.constexpr(3)  # keys of a split
NUM_SPLITS = tl.constexpr(4)
FIRST_PARTIAL_ROW = tl.constexpr(5)  # in the buffer of partial results


@triton.jit
def find_program(work_ptr, programs_offset, num_kv_heads):
    """Return program, head of keys (int64), sequence (int64) and record pointer of this program.

    The program number is that of one head of keys.
    """
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    seq = tl.load(work_ptr + programs_offset + program).to(tl.int64)
    return program, kv_head, seq, work_ptr + seq * RECORD


class ProgramRange(NamedTuple):
    """Programs of a kernel, for each head of keys."""

    offset: int
    """Index in the table of the first program's sequence; those of the others follow."""

    num_programs: int


class Schedule(NamedTuple):
    """The programs of all kernels that a call launches."""

    table: Tensor
    """int32 on the device: the record of each sequence, the sequence of each program, then where
    the queries and the keys of each sequence start."""

    decode: ProgramRange
    append: ProgramRange
    prefill: ProgramRange
    merge: ProgramRange

    num_partial_rows: int
    """Rows of partial results, each for all heads of keys."""

    def cu_seqlens(self, num_seqs: int) -> tuple[Tensor, Tensor]:
        """Return where the queries and the keys of each sequence start, int32 `[N + 1]`."""
        start_q = self.merge.offset + self.merge.num_programs
        start_k = start_q + num_seqs + 1
        return self.table[start_q:start_k], self.table[start_k : start_k + num_seqs + 1]


def schedule(
    lengths: tuple[Sequence[int], Sequence[int]],
    group_size: int,
    block_m: tuple[int, int, int],
    limits: KeyLimits,
    device: torch.device,
    first_positions: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Schedule:
    """Return the schedule of a call, copied to the device in one copy.

    Args:
        lengths: queries and keys of each sequence.
        group_size: heads of q that share one of k.
        block_m: rows of the tiles of decode, append and prefill.
        limits: which keys a query sees.
        device: where the schedule is used.
        first_positions: of the queries and of the keys of each sequence. None: the last query has
            the position of the last key.
    """
    lengths_q, lengths_k = map(tuple, lengths)
    is_cached = len(lengths_q) <= MAX_CACHED_SEQUENCES
    build = _build_on_host if is_cached else _build_on_host.__wrapped__
    if first_positions is None:
        first_keys = tuple(
            first_visible_key(num_keys - num_queries, limits)
            for num_queries, num_keys in zip(lengths_q, lengths_k, strict=True)
        )
    else:
        first_keys = tuple(
            min(num_keys, max(0, first_visible_key(query, limits) - key))
            for query, key, num_keys in zip(*first_positions, lengths_k, strict=True)
        )
    on_host = build(lengths_q, lengths_k, first_keys, group_size, block_m)
    return on_host._replace(table=on_host.table.to(device, non_blocking=True))


@lru_cache(maxsize=32)
def _build_on_host(
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    first_keys: tuple[int, ...],  # the first key that a query sees
    group_size: int,
    block_m: tuple[int, int, int],
) -> Schedule:
    """Return a schedule whose table is on the CPU. All layers of a model share one."""
    decode_block, append_block, prefill_block = block_m
    records: list[int] = []
    decode: list[int] = []
    append: list[int] = []
    prefill: list[int] = []
    merge: list[int] = []
    num_partial_rows = 0
    sequences = zip(lengths_q, lengths_k, first_keys, strict=True)
    for seq, (num_queries, num_keys, start) in enumerate(sequences):
        rows = num_queries * group_size
        if rows <= DECODE_ROWS:
            programs, block, split_keys = decode, decode_block, SPLIT_KEYS
        elif (
            rows <= APPEND_ROWS
            or num_queries == 1
            or (rows <= MAX_SPLIT_ROWS and num_keys - start >= rows * MIN_KEYS_PER_ROW)
        ):
            programs, block = append, append_block
            split_keys = SPLIT_KEYS * cdiv(rows, APPEND_ROWS)
        else:
            records += (len(prefill), 0, 0, 0, 0, 0, 0, 0)
            prefill += [seq] * cdiv(rows, prefill_block)
            continue
        num_splits = cdiv(num_keys, split_keys) - start // split_keys
        record = len(programs), len(merge), start, split_keys, num_splits, num_partial_rows
        records += (*record, 0, 0)
        programs += [seq] * (num_splits * cdiv(rows, block))
        merge += [seq] * cdiv(rows, MERGE_ROWS)
        num_partial_rows += num_splits * rows
    starts = (*accumulate(lengths_q, initial=0), *accumulate(lengths_k, initial=0))
    numbers = array("i", (*records, *decode, *append, *prefill, *merge, *starts))
    offsets = [*accumulate(map(len, (records, decode, append, prefill)))]
    return Schedule(
        torch.frombuffer(numbers, dtype=torch.int32),
        decode=ProgramRange(offsets[0], len(decode)),
        append=ProgramRange(offsets[1], len(append)),
        prefill=ProgramRange(offsets[2], len(prefill)),
        merge=ProgramRange(offsets[3], len(merge)),
        num_partial_rows=num_partial_rows,
    )


def first_visible_key(position: int, limits: KeyLimits) -> int:
    """Return the first key that the query at `position`, or a later one, sees."""
    first = position - limits.window_left
    if limits.chunk != UNLIMITED:
        first = max(first, position // limits.chunk * limits.chunk)
    return max(0, first)
