"""Entries: positions and indices of the tokens of a row as a table, `[s, 4]`.

An entry is (start, base, position shift, index shift) of the tokens from place `start` to the next
entry: the token at place i has position `base + (i - start) + position shift` and index
`base + (i - start) + index shift`. Of several axes, base and position shift are those of axis 0 of
the first token.
"""

from collections.abc import Sequence

import numpy as np

from rope_core.calls.rope_checks import MAX_POSITION
from rope_core.checks import MAX_INDEX
from rope_core.errors import ConfigError, ShapeError
from rope_core.kvcache.plan import IntArray
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.structure import MAX_SEGMENTS

MAX_SHIFT = 2 * MAX_POSITION
"""Largest shift, and largest base position, of an entry."""

StoredSegment = tuple[int, ...]
"""How many entries a segment has, and its shift on each axis."""


def stored_entries(row: Row, start: int, stop: int) -> tuple[IntArray, list[StoredSegment]]:
    """Return the entries of the tokens at places [start, stop) as they are stored.

    Returns:
        The entries, and how the segments have them.
    """
    entries: list[IntArray] = []
    segments: list[StoredSegment] = []
    for segment, low, high in row.parts(start, stop):
        base, index = segment.base_positions(low, high), segment.index + low
        runs = _runs(base, np.arange(index, index + high - low))
        runs[:, 0] += start
        runs[:, 2] = segment.shift[0]
        entries.append(runs)
        segments.append((len(runs), *segment.shift))
        start += high - low
    return _joined(entries), segments


def moved_entries(row: Row, start: int, stop: int) -> IntArray:
    """Return entries of the tokens at places [start, stop) without position shifts."""
    if start == stop:
        return _joined([])
    indices = np.asarray(row.indices(start, stop), np.int64)
    runs = _runs(row.positions(start, stop), indices)
    runs[:, 0] += start
    return runs


def segments_of(
    name: str,
    entries: IntArray,
    stored: Sequence[StoredSegment] | None,
    positions: IntArray,
    start: int,
) -> list[Segment]:
    """Return the segments of the tokens from place `start` on, without pages.

    Args:
        name: of the entries, for errors.
        entries: `[s, 4]`, of any numbers.
        stored: how the segments have the entries; None: a segment for each.
        positions: now, `[A, n]`, within the range of positions.
        start: place of the first token.

    Raises:
        ShapeError: the entries do not fit together, or not to the positions.
    """
    num_axes, num_tokens = positions.shape
    _check_entries(name, entries, positions, start)
    if stored is None:
        stored = [(1, *[int(entry[2])] * num_axes) for entry in entries]
    if len(stored) > MAX_SEGMENTS:
        raise ShapeError(name, f"of at most {MAX_SEGMENTS} segments", len(stored))
    ends = np.append(entries[1:, 0], start + num_tokens) - start
    segments, first = [], 0
    for count, *shift in stored:
        part = entries[first : first + count]
        begin, end = int(part[0, 0]) - start, int(ends[first + count - 1])
        first += count
        index = part[:, 1] + part[:, 3]
        runs_on = bool((index - part[:, 0] == index[0] - part[0, 0]).all())
        if not runs_on or bool((part[:, 2] != shift[0]).any()):
            raise ShapeError(name, "with one shift, and an index that runs on, a segment", "others")
        base = positions[:, begin:end] - np.array(shift, np.int64)[:, None]
        segment = Segment(
            int(index[0]), int(base[0, 0]), tuple(shift), 0, [], end - begin, np.array(base)
        )
        segment.simplify()
        segments.append(segment)
    return segments


def check_stored(
    name: str, stored: Sequence[StoredSegment], num_entries: int, num_axes: int
) -> None:
    """Raise ConfigError unless each segment has entries, and all together have all."""
    whole = all(
        type(number) is int and abs(number) <= MAX_SHIFT for each in stored for number in each
    )
    if not whole or not all(len(each) == 1 + num_axes and each[0] >= 1 for each in stored):
        expected = f"for each segment the number of its entries and {num_axes} shifts"
        raise ConfigError(name, expected, "others")
    if sum(each[0] for each in stored) != num_entries:
        raise ConfigError(name, f"of {num_entries} entries", sum(each[0] for each in stored))


def _check_entries(name: str, entries: IntArray, positions: IntArray, start: int) -> None:
    """Raise ShapeError unless the entries tile the tokens, and have their positions."""
    num_axes, num_tokens = positions.shape
    if not num_tokens:
        if len(entries):
            raise ShapeError(name, "empty, as the row is", f"{len(entries)} entries")
        return
    places = entries[:, 0]
    tiles = len(entries) and places[0] == start and places[-1] < start + num_tokens
    if not tiles or not bool((places[:-1] < places[1:]).all()):
        expected = f"of increasing places from {start} to below {start + num_tokens}"
        raise ShapeError(name, expected, "others")
    bases, index_shifts = entries[:, 1:3], entries[:, 3]
    in_range = (bases >= -MAX_SHIFT) & (bases <= MAX_SHIFT)
    if not bool(in_range.all() and (abs(index_shifts.clip(-MAX_INDEX)) < MAX_INDEX).all()):
        raise ShapeError(name, "of numbers in the range of positions and indices", "others")
    counts = np.diff(np.append(places, start + num_tokens))
    index = entries[:, 1] + entries[:, 3]
    is_increasing = (index[:-1] + counts[:-1] <= index[1:]).all()
    if not bool((index >= places).all() and is_increasing and index[-1] < MAX_INDEX - counts[-1]):
        raise ShapeError(name, "of indices that increase, none below its place", "others")
    first = entries[:, 1] + entries[:, 2]
    if num_axes == 1:
        runs = np.repeat(first - places, counts) + np.arange(start, start + num_tokens)
        is_equal = positions[0] == runs
    else:
        is_equal = positions[0, places - start] == first
    if not bool(is_equal.all()):
        raise ShapeError(name, "with the positions of the tokens", "others")


def _runs(base: IntArray, index: IntArray) -> IntArray:
    """Return entries from place 0 on, without position shift; n >= 1.

    Args:
        base: base positions `[A, n]`. Those of several axes need not run on within an entry.
        index: `[n]`.
    """
    breaks = np.diff(index) != 1
    if len(base) == 1:
        breaks |= np.diff(base[0]) != 1
    starts = np.append(0, np.nonzero(breaks)[0] + 1)
    first = base[0, starts]
    return np.stack([starts, first, np.zeros_like(first), index[starts] - first], axis=1)


def _joined(entries: list[IntArray]) -> IntArray:
    return np.concatenate(entries) if entries else np.empty((0, 4), np.int64)
