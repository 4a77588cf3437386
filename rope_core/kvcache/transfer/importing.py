"""Import: make a cache from a whole export of the form `stored`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rope_core.checks import MAX_INDEX
from rope_core.errors import ConfigError, ShapeError
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.arguments import check_batch, check_max_tokens, check_positions
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.table import PageTable
from rope_core.kvcache.transfer.entries import StoredSegment, check_stored, segments_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNumbers:
    """The numbers of the tokens of a row, as an export has them; nothing is checked yet."""

    positions: Tensor
    """int64 `[n]`, or `[A, n]`: `positions.{row}`."""
    entries: Tensor
    """int64 `[s, 4]`: `segments.{row}`."""
    stored: Sequence[StoredSegment] | None
    """How the segments have the entries; None: a segment for each."""
    start: int
    """Place of the first token."""
    length: int
    """Place behind the last token."""
    num_kept: Sequence[int]
    """Tokens that the tensors of each layer have: the last ones."""


class Import:
    """A cache that is being filled; it is whole once all keys and values have been written.

    Args:
        config: what is stored.
        arena: the memory.
        rows: the numbers of the tokens of each row.
        max_tokens: as of `KVCache`.
        owner: as of `KVCache`.

    Raises:
        ConfigError, ShapeError: the numbers do not fit together.
        TooManyTokens, ArenaFull: as `Arena.reserve`.
    """

    def __init__(
        self,
        config: KVConfig,
        arena: Arena,
        rows: Sequence[RowNumbers],
        max_tokens: int | None = None,
        *,
        owner: object = None,
    ) -> None:
        check_batch("rows", len(rows))
        self._clears: list[tuple[int, int]] = []
        self._lengths = [each.length for each in rows]
        segments = [
            _row_segments(config, arena.page_tokens, number, each, max_tokens)
            for number, each in enumerate(rows)
        ]
        self.cache = KVCache(config, arena, len(rows), max_tokens, owner=owner)
        """To be closed if the import is given up."""
        try:
            for row, made in zip(self.cache.rows, segments, strict=True):
                row.set_segments(made)
                self._allocate(row)
            self.cache.holdings.settle()
        except BaseException:
            self.cache.close()
            raise
        for of_layer in self.cache.layer_lengths:
            of_layer[:] = self._lengths

    def clear(self) -> None:
        """Set pages that another owner had to 0, before the first write."""
        for group, page_group in self._clears:
            pool = self.cache.holdings.pools[group]
            pool.pages[page_group : page_group + pool.shape.num_layers].zero_()
        self._clears.clear()

    def write(
        self, layer: int, row: int, is_keys: bool, num_kept: int, first: int, data: Tensor
    ) -> None:
        """Write a part of `k.{layer}.{row}` or `v.{layer}.{row}` into the pages.

        Args:
            layer: its index.
            row: its number.
            is_keys: k or v.
            num_kept: tokens of the whole tensor.
            first: number of the first vector of `data`, in the order of the tensor.
            data: `[m, width]`, on the CPU.
        """
        group, layer_in_group = self.cache.group_of[layer]
        pool, page_tokens = self.cache.holdings.pools[group], self.cache.arena.page_tokens
        pages = pool.keys if is_keys else pool.values
        data = data.to(pages.device)
        begin = self._lengths[row] - num_kept
        done = 0
        while done < len(data):
            head, token = divmod(first + done, num_kept)
            start = begin + token
            stop = start + min(len(data) - done, num_kept - token)
            for segment, low, high in self.cache.rows[row].parts(start, stop):
                table = segment.tables[group]
                for page, slot, count in _pages_of(segment, low, high, page_tokens):
                    target = pages[table[page] + layer_in_group, head, slot : slot + count]
                    target.copy_(data[done : done + count])
                    done += count

    def _allocate(self, row: Row) -> None:
        """Give the segments of a row their pages."""
        holdings, page_tokens = self.cache.holdings, row.page_tokens
        for number, segment in enumerate(row.segments):
            before = row.segments[number - 1] if number else None
            for group, table in enumerate(segment.tables):
                is_joined = (
                    before is not None
                    and segment.first_slot != 0
                    and not table.gone
                    and segment.first_slot == before.end_slot % page_tokens
                    and len(before.tables[group].kept)
                )
                if is_joined and before is not None:
                    shared = before.tables[group][before.end_slot // page_tokens]
                    holdings.retain(group, np.array([shared], np.int32))
                    table.append(shared)
                while table.num_pages * page_tokens < segment.end_slot:
                    page_group, must_clear = holdings.reservations[group].allocate(
                        holdings.number, holdings.owner
                    )
                    table.append(page_group)
                    if must_clear:
                        self._clears.append((group, page_group))


def _pages_of(
    segment: Segment, low: int, high: int, page_tokens: int
) -> Iterator[tuple[int, int, int]]:
    """Yield page, first slot and number of the tokens [low, high) of a segment in each page."""
    first, end = segment.first_slot + low, segment.first_slot + high
    while first < end:
        page, slot = divmod(first, page_tokens)
        count = min(page_tokens - slot, end - first)
        yield page, slot, count
        first += count


def _row_segments(
    config: KVConfig, page_tokens: int, number: int, row: RowNumbers, max_tokens: int | None
) -> list[Segment]:
    """Return the segments of a row, without pages but with those that are gone."""
    num_tokens, num_axes = row.length - row.start, config.num_axes
    if not 0 <= row.start <= row.length < MAX_INDEX:
        raise ConfigError("start", f"in [0, {row.length}], of row {number}", row.start)
    check_max_tokens(number, row.length, max_tokens)
    if [*row.positions.shape] != ([num_tokens] if num_axes == 1 else [num_axes, num_tokens]):
        expected = f"[{num_tokens}]" if num_axes == 1 else f"[{num_axes}, {num_tokens}]"
        raise ShapeError(f"positions.{number}", expected, str([*row.positions.shape]))
    positions = check_positions(config, row.positions, num_tokens)
    assert positions is not None, "they are given"
    entries, name = row.entries, f"segments.{number}"
    if entries.dtype != torch.int64 or entries.ndim != 2 or entries.shape[1] != 4:
        raise ShapeError(name, "int64 [s, 4]", str([*entries.shape]))
    if row.stored is not None:
        check_stored(name, row.stored, len(entries), num_axes)
    segments = segments_of(name, entries.numpy(), row.stored, positions, row.start)
    _add_gone_tokens(segments, row.start, num_axes)
    firsts = _first_places(config, number, row)
    _place(segments, firsts, page_tokens)
    return segments


def _first_places(config: KVConfig, number: int, row: RowNumbers) -> list[int]:
    """Return the place of the first token that the layers of each group have."""
    firsts = []
    for group in config.groups:
        kept = {row.num_kept[layer] for layer in group.layers}
        most = row.length - row.start
        if len(kept) > 1 or not 0 <= min(kept) <= most:
            expected = f"of one length of at most {most} tokens in layers {[*group.layers][:8]}"
            raise ShapeError(f"k.{group.layers[0]}.{number}", expected, str(sorted(kept)[:8]))
        first = row.length - kept.pop()
        if first and not group.is_windowed:
            expected = f"of {row.length} tokens: no window has moved on"
            raise ShapeError(f"k.{group.layers[0]}.{number}", expected, row.length - first)
        firsts.append(first)
    return firsts


def _add_gone_tokens(segments: list[Segment], start: int, num_axes: int) -> None:
    """Add the tokens before place `start`, of which nothing is left.

    They are part of the first segment if its index is its place. If not, the index has holes before
    it in unknown places, and the tokens get the least indices that they can have.
    """
    if not start:
        return
    if segments and not segments[0].is_listed and segments[0].index == start:
        first = segments[0]
        first.index -= start
        first.base -= start
        first.num_tokens += start
        return
    segments.insert(0, Segment(0, 0, (0,) * num_axes, 0, [], start))


def _place(segments: list[Segment], firsts: Sequence[int], page_tokens: int) -> None:
    """Choose the first slot of each segment, and note which of its pages are gone.

    A segment begins in the slot behind the one before. Where a part of it is gone, the first token
    that is left begins a page.

    Raises:
        ConfigError: pages of so many tokens cannot hold what is left.
    """
    place = end_slot = 0
    for segment in segments:
        stop = place + segment.num_tokens
        starts = {(place - first) % page_tokens for first in firsts if place < first < stop}
        if len(starts) > 1:
            expected = f"where pages of {page_tokens} tokens begin"
            raise ConfigError("start", expected, [*firsts][:8])
        segment.first_slot = starts.pop() if starts else end_slot % page_tokens
        end_slot = segment.end_slot
        segment.tables = [
            PageTable(np.empty(0, np.int32), _num_gone(segment, place, first, page_tokens))
            for first in firsts
        ]
        place = stop


def _num_gone(segment: Segment, place: int, first: int, page_tokens: int) -> int:
    """Return how many pages of a segment that begins at `place` are gone."""
    if first <= place:
        return 0
    if first >= place + segment.num_tokens:
        return -(-segment.end_slot // page_tokens)
    return (segment.first_slot + first - place) // page_tokens
