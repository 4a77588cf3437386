"""Rows: the segments of a sequence, and the numbers of its tokens."""

import numpy as np

from rope_core.kvcache.plan import IntArray
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.table import PageTable

OPEN_UP_TO = 8
"""Positions that do not run on open a new segment while a row has fewer segments than this. After
that they are listed in the last segment."""


class Row:
    """The tokens of a sequence that any layer has, as segments.

    The first layer that appends a token decides its index and position.

    Args:
        num_axes: numbers of a position.
        num_groups: groups of layers, each with its own pages.
        page_tokens: tokens of a page.
    """

    __slots__ = ("num_axes", "num_groups", "num_tokens", "page_tokens", "segments")

    def __init__(self, num_axes: int, num_groups: int, page_tokens: int) -> None:
        self.num_axes = num_axes
        self.num_groups = num_groups
        self.page_tokens = page_tokens
        self.segments: list[Segment] = []
        self.num_tokens = 0
        """Tokens of all segments: the length of the longest layer."""

    def set_segments(self, segments: list[Segment]) -> None:
        """Replace all segments."""
        self.segments = segments
        self.num_tokens = sum(segment.num_tokens for segment in segments)

    def find(self, place: int) -> tuple[int, int]:
        """Return the segment that has a place, and the place of its first token.

        The place behind the last token is in the last segment. The row has a segment.
        """
        number = len(self.segments) - 1
        start = self.num_tokens - self.segments[number].num_tokens
        while place < start:
            number -= 1
            start -= self.segments[number].num_tokens
        return number, start

    def next_index(self) -> int:
        """Return the index of a token that is appended."""
        return self.segments[-1].index + self.segments[-1].num_tokens if self.segments else 0

    def next_position(self) -> int:
        """Return the position, on all axes, of a token that is appended without a position."""
        return self.segments[-1].last_position() + 1 if self.segments else 0

    def index_of(self, place: int) -> int:
        """Return the index of a token."""
        number, start = self.find(place)
        return self.segments[number].index + place - start

    def indices(self, start: int, stop: int) -> range | IntArray:
        """Return the indices of the tokens at places [start, stop)."""
        if start == stop:
            return range(0)
        number, first = self.find(start)
        segment = self.segments[number]
        if stop <= first + segment.num_tokens:
            return range(segment.index + start - first, segment.index + stop - first)
        parts = [
            np.arange(part.index + low, part.index + high)
            for part, low, high in self.parts(start, stop)
        ]
        return np.concatenate(parts)

    def base_position_of(self, place: int) -> int | None:
        """Return the base position of a token, if it is the same on all axes.

        None if not, or if the token is not in the last segment.
        """
        segment = self.segments[-1]
        offset = place - self.num_tokens + segment.num_tokens
        if offset < 0 or segment.is_listed:
            return None
        return segment.base + offset

    def position_of(self, place: int) -> int | None:
        """Return the position of a token; None as `base_position_of`."""
        segment = self.segments[-1]
        offset = place - self.num_tokens + segment.num_tokens
        if offset < 0 or segment.is_listed or not segment.has_equal_shift:
            return None
        return segment.base + offset + segment.shift[0]

    def positions(self, start: int, stop: int) -> IntArray:
        """Return the positions of the tokens at places [start, stop), `[A, stop - start]`."""
        parts = [part.positions(low, high) for part, low, high in self.parts(start, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if parts else np.empty((self.num_axes, 0), np.int64)

    def base_positions(self, start: int, stop: int) -> IntArray:
        """Return the base positions of the tokens at places [start, stop), `[A, stop - start]`."""
        parts = [part.base_positions(low, high) for part, low, high in self.parts(start, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if parts else np.empty((self.num_axes, 0), np.int64)

    def parts(self, start: int, stop: int) -> list[tuple[Segment, int, int]]:
        """Return the segments of places [start, stop), each with the range of its tokens."""
        if start >= stop:
            return []
        parts = []
        number, first = self.find(start)
        while start < stop:
            segment = self.segments[number]
            end = min(stop, first + segment.num_tokens)
            if start < end:
                parts.append((segment, start - first, end - first))
            start = max(start, end)
            first += segment.num_tokens
            number += 1
        return parts

    def append(self, num_new: int, positions: IntArray | None) -> "Undo":
        """Add tokens at the end, at `positions`, `[A, num_new]`; None: numbers run on.

        They continue the last segment if their numbers run on, else they open a new one, in the
        page in which the last one ends.

        Returns:
            What `undo` needs.
        """
        last = self.segments[-1] if self.segments else None
        continues = last is not None and not last.is_listed and last.has_equal_shift
        if positions is None:
            run_from: int | None = self.next_position() if not continues else None
        else:
            run_from = _first_of_run(positions)
            continues = continues and run_from == self.next_position()
        self.num_tokens += num_new
        if last is not None and continues:
            last.num_tokens += num_new
            return last, num_new, False
        if last is not None and len(self.segments) >= OPEN_UP_TO:
            return self._list_in(last, num_new, positions, run_from)
        segment = Segment(
            self.next_index(),
            run_from or 0,
            (0,) * self.num_axes,
            last.end_slot % self.page_tokens if last is not None else 0,
            [PageTable(np.empty(0, np.int32)) for _ in range(self.num_groups)],
        )
        self.segments.append(segment)
        if run_from is None and positions is not None:
            segment.extend_listed(positions)
        else:
            segment.num_tokens = num_new
        return None, num_new, False

    def undo(self, undo: "Undo") -> None:
        """Remove the tokens that an `append` has added; it was the last change of the row."""
        last, num_new, was_run = undo
        self.num_tokens -= num_new
        if last is None:
            self.segments.pop()
            return
        last.num_tokens -= num_new
        if was_run:
            last.listed = None

    def _list_in(
        self, last: Segment, num_new: int, positions: IntArray | None, run_from: int | None
    ) -> "Undo":
        if positions is None:
            run = np.arange(run_from or 0, (run_from or 0) + num_new)
            positions = np.broadcast_to(run, (self.num_axes, num_new))
        was_run = not last.is_listed
        last.extend_listed(positions - np.array(last.shift, np.int64)[:, None])
        return last, num_new, was_run


Undo = tuple[Segment | None, int, bool]
"""The segment that was extended, or None if one was opened; the number of tokens; whether its base
positions were not listed before."""


def _first_of_run(positions: IntArray) -> int | None:
    """Return the first of positions `[A, n]` that go on by one on all axes; None if they do not."""
    first = int(positions[0, 0])
    if positions.size == 1:
        return first
    run = np.arange(first, first + positions.shape[1])
    return first if bool((positions == run).all()) else None
