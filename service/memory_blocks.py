"""Blocks of large memory: the smallest free one that fits is split, and free neighbours merge."""

import mmap
from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np

UNIT_BYTES = 2**16
"""Sizes of blocks are multiples of this."""

MIN_BUFFER_BYTES = 2**20
"""Smallest buffer of the pool: the allocator reuses smaller memory as well as a pool would."""

PAGE_BYTES = mmap.PAGESIZE


class Region:
    """Memory from the system, with huge pages. Its pages are allocated when they are first written.

    Args:
        num_bytes: the size.
    """

    __slots__ = ("address", "buffer", "is_kept", "is_pinned")

    def __init__(self, num_bytes: int) -> None:
        self.buffer = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.buffer.madvise(mmap.MADV_HUGEPAGE)
        self.address: int = np.frombuffer(self.buffer, dtype=np.uint8).ctypes.data
        self.is_kept = False
        """Whether the region is never returned to the system."""
        self.is_pinned = False

    @classmethod
    def for_block(cls, num_bytes: int) -> "Region":
        """Return a region up to an eighth larger: the next request may be a little longer."""
        step = max(MIN_BUFFER_BYTES, (1 << num_bytes.bit_length()) // 16)
        return cls(-(-num_bytes // step) * step)

    def touch(self) -> None:
        """Write to each page. Takes a second for a few GB, and lets other threads run."""
        np.frombuffer(self.buffer, dtype=np.uint8)[::PAGE_BYTES] = 0


class Block:
    """Part of a region, free or leased, between its neighbours in the region."""

    __slots__ = ("is_free", "next", "offset", "previous", "region", "size")

    def __init__(self, region: Region, offset: int, size: int) -> None:
        self.region = region
        self.offset = offset
        self.size = size
        self.is_free = False
        self.previous: Block | None = None
        self.next: Block | None = None

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return self.region.address + self.offset

    @property
    def is_whole_region(self) -> bool:
        """Whether the block is all of its region."""
        return self.previous is None and self.next is None


class FreeBlocks:
    """Free blocks by size. Not thread-safe."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._blocks: list[Block] = []  # by size, then by address

    def take(self, num_bytes: int) -> Block | None:
        """Remove and return a block of `num_bytes`, rounded up; None if no free block fits."""
        index = bisect_left(self._blocks, (num_bytes, 0), key=_size_and_address)
        if index == len(self._blocks):
            return None
        block = self._blocks.pop(index)
        self.num_bytes -= block.size
        block.is_free = False
        self._split(block, -(-num_bytes // UNIT_BYTES) * UNIT_BYTES)
        return block

    def put(self, block: Block) -> None:
        """Add a block, merged with its free neighbours.

        Raises:
            RuntimeError: the block is free already.
        """
        if block.is_free:
            raise RuntimeError("a block was released twice")
        if block.previous is not None and block.previous.is_free:
            block = self._merge(block.previous, block)
        if block.next is not None and block.next.is_free:
            block = self._merge(block, block.next)
        self._insert(block)

    def remove(self, block: Block) -> None:
        """Remove a free block."""
        del self._blocks[bisect_left(self._blocks, _size_and_address(block), key=_size_and_address)]
        self.num_bytes -= block.size
        block.is_free = False

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks, the largest first."""
        return reversed(self._blocks)

    def _insert(self, block: Block) -> None:
        block.is_free = True
        self.num_bytes += block.size
        insort(self._blocks, block, key=_size_and_address)

    def _split(self, block: Block, size: int) -> None:
        """Shrink a block to `size`; the rest of it becomes a free block."""
        if size == block.size:
            return
        rest = Block(block.region, block.offset + size, block.size - size)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next, block.size = rest, size
        self._insert(rest)

    def _merge(self, first: Block, second: Block) -> Block:
        """Return the first of two neighbours, grown by the second. Neither is free after it."""
        for block in (first, second):
            if block.is_free:
                self.remove(block)
        first.size += second.size
        first.next = second.next
        if second.next is not None:
            second.next.previous = first
        second.previous = second.next = None
        second.is_free = True  # so that a second release is refused
        return first


def _size_and_address(block: Block) -> tuple[int, int]:
    return block.size, block.address
