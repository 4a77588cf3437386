"""Page tables that grow: the page groups of a segment."""

from typing import Self

import numpy as np

from rope_core.kvcache.pool import PageGroups


class PageTable:
    """Page groups of a segment in one group of layers, without the first `gone` ones.

    The first pages are gone when they lie behind the window of the group.
    """

    __slots__ = ("_buffer", "_num", "gone")

    def __init__(self, page_groups: PageGroups, gone: int = 0) -> None:
        self._buffer = page_groups
        self._num = len(page_groups)
        self.gone = gone
        """Leading pages of the segment that have been freed."""

    @property
    def kept(self) -> PageGroups:
        """The page groups that are not gone, a view."""
        return self._buffer[: self._num]

    @property
    def num_pages(self) -> int:
        """Pages of the segment so far, with those that are gone."""
        return self.gone + self._num

    def __getitem__(self, page: int) -> int:
        return int(self._buffer[page - self.gone])

    def __setitem__(self, page: int, page_group: int) -> None:
        self._buffer[page - self.gone] = page_group

    def append(self, page_group: int) -> None:
        """Add a page at the end."""
        if self._num == len(self._buffer):
            larger = np.empty(max(8, 2 * self._num), np.int32)
            larger[: self._num] = self._buffer
            self._buffer = larger
        self._buffer[self._num] = page_group
        self._num += 1

    def pop(self) -> int:
        """Remove the last page, and return its page group."""
        self._num -= 1
        return int(self._buffer[self._num])

    def cut_front(self, num: int) -> PageGroups:
        """Remove the first `num` kept pages, which count as gone, and return them."""
        removed = self._buffer[:num].copy()
        self._buffer = self._buffer[num : self._num].copy()
        self._num -= num
        self.gone += num
        return removed

    def part(self, start: int, stop: int) -> Self:
        """Return a table of the pages [start, stop) of the segment, gone ones included."""
        low, high = max(start - self.gone, 0), max(stop - self.gone, 0)
        gone = min(max(self.gone - start, 0), stop - start)
        return type(self)(self._buffer[low : min(high, self._num)].copy(), gone)
