"""Segments: runs of tokens of a row in adjacent slots, for all layers."""

from collections.abc import Sequence

import numpy as np

from rope_core.kvcache.plan import IntArray
from rope_core.kvcache.table import PageTable


class Segment:
    """Tokens whose index goes on by one, in adjacent slots of pages, with a common shift.

    Token j has index `index + j`, its keys were rotated at its base position, and its position is
    the base position + shift. Base positions go on by one from `base` on all axes, unless they are
    listed in `listed`.
    """

    __slots__ = ("_listed", "base", "first_slot", "index", "num_tokens", "shift", "tables")

    def __init__(
        self,
        index: int,
        base: int,
        shift: tuple[int, ...],
        first_slot: int,
        tables: list[PageTable],
        num_tokens: int = 0,
        listed: IntArray | None = None,
    ) -> None:
        self.index = index
        """Of the first token."""
        self.base = base
        """Base position of the first token, unless base positions are listed."""
        self.shift = shift
        """Position minus base position, of each axis."""
        self.first_slot = first_slot
        """Slot of the first token in its page."""
        self.tables = tables
        """Pages, of each group."""
        self.num_tokens = num_tokens
        self._listed = listed

    @property
    def listed(self) -> IntArray | None:
        """Base positions `[A, num_tokens]`, or None where they go on by one."""
        return None if self._listed is None else self._listed[:, : self.num_tokens]

    @listed.setter
    def listed(self, listed: IntArray | None) -> None:
        self._listed = listed

    @property
    def is_listed(self) -> bool:
        """Whether base positions are listed."""
        return self._listed is not None

    @property
    def end_slot(self) -> int:
        """Slot behind the last token, counted from the first slot of the first page."""
        return self.first_slot + self.num_tokens

    @property
    def has_equal_shift(self) -> bool:
        """Whether all axes have one shift."""
        shift = self.shift
        return len(shift) == 1 or shift.count(shift[0]) == len(shift)

    def base_positions(self, start: int, stop: int) -> IntArray:
        """Return the base positions of tokens [start, stop), `[A, stop - start]`: a view."""
        if self._listed is not None:
            return self._listed[:, start:stop]
        numbers = np.arange(self.base + start, self.base + stop)
        return np.broadcast_to(numbers, (len(self.shift), stop - start))

    def positions(self, start: int, stop: int) -> IntArray:
        """Return the positions now of tokens [start, stop), `[A, stop - start]`."""
        shift = np.array(self.shift, np.int64)
        return self.base_positions(start, stop) + shift[:, None]

    def last_position(self) -> int:
        """Return the largest number of the position of the last token."""
        if self._listed is None:
            return self.base + self.num_tokens - 1 + max(self.shift)
        last = self._listed[:, self.num_tokens - 1]
        return max(map(int.__add__, last.tolist(), self.shift))

    def extend_listed(self, base_positions: IntArray) -> None:
        """Add tokens behind the last, with base positions `[A, n]`."""
        num, new = self.num_tokens, self.num_tokens + base_positions.shape[1]
        listed = self._listed
        if listed is None:
            listed = self.base_positions(0, num)
        if new > listed.shape[1]:
            larger = np.empty((len(self.shift), max(16, 2 * new)), np.int64)
            larger[:, :num] = listed[:, :num]
            listed = larger
        listed[:, num:new] = base_positions
        self._listed = listed
        self.num_tokens = new

    def part(
        self, start: int, stop: int, page_tokens: int, *, keep_tables: bool = False
    ) -> "Segment":
        """Return tokens [start, stop) as a segment of its own in the same pages; start < stop.

        With `keep_tables` it takes over the tables that have no other pages, instead of copies;
        this segment is not used any more then.
        """
        first = self.first_slot + start
        first_page, end_page = first // page_tokens, -(-(self.first_slot + stop) // page_tokens)
        tables = [
            table
            if keep_tables and first_page == 0 and table.num_pages <= end_page
            else table.part(first_page, end_page)
            for table in self.tables
        ]
        return Segment(
            self.index + start,
            self.base + start,
            self.shift,
            first % page_tokens,
            tables,
            stop - start,
            None if self._listed is None else self._listed[:, start:stop].copy(),
        )

    def renumbered(self, index: int, shift: Sequence[int]) -> "Segment":
        """Return the segment with another first index and shift, and the same tables."""
        listed = self._listed
        return Segment(
            index, self.base, tuple(shift), self.first_slot, self.tables, self.num_tokens, listed
        )

    def num_gone(self, group: int, page_tokens: int) -> int:
        """Return how many of the first tokens have no page in a group."""
        gone = self.tables[group].gone
        return min(gone * page_tokens - self.first_slot, self.num_tokens) if gone else 0

    def simplify(self) -> None:
        """Replace listed base positions that go on by one with their first."""
        listed = self.listed
        if listed is None:
            return
        first = int(listed[0, 0])
        if bool((listed == np.arange(first, first + self.num_tokens)).all()):
            self.base, self._listed = first, None


def follows(second: Segment, first: Segment, page_tokens: int) -> bool:
    """Return whether a segment can be joined to the one before.

    It is in the adjacent slots, has the same shift, and its index goes on by one.
    """
    if second.shift != first.shift or second.index != first.index + first.num_tokens:
        return False
    if second.first_slot != first.end_slot % page_tokens:
        return False
    end_page = first.end_slot // page_tokens
    for before, after in zip(first.tables, second.tables, strict=True):
        if after.gone:
            return False
        if second.first_slot == 0:
            adjacent = before.num_pages == end_page
        else:
            has_both = before.num_pages == end_page + 1 > before.gone and after.num_pages > 0
            adjacent = has_both and before[end_page] == after[0]
        if not adjacent:
            return False
    return True


def join(first: Segment, second: Segment) -> list[int | None]:
    """Add the tokens of `second`, which `follows` the first, to the first.

    Returns:
        For each group the page group that both had, which now has one reference too many; or None.
    """
    shared: list[int | None] = []
    for before, after in zip(first.tables, second.tables, strict=True):
        pages = after.kept
        shared.append(int(pages[0]) if second.first_slot else None)
        for page_group in pages[1 if second.first_slot else 0 :].tolist():
            before.append(page_group)
    runs_on = second.base == first.base + first.num_tokens
    if first.listed is None and second.listed is None and runs_on:
        first.num_tokens += second.num_tokens
    else:
        first.extend_listed(second.base_positions(0, second.num_tokens))
        first.simplify()
    return shared
