"""A cache of keys and values: rows of tokens, and their state on the host."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from rope_core.calls.rope_checks import MAX_POSITION
from rope_core.checks import check_in_range
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.kvcache import compaction, moving, sharing, structure
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.arguments import (
    check_batch,
    check_index,
    check_layers,
    check_positions,
    check_rows,
    check_tail_mask,
    one_per_row,
)
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.decoding import is_usual, plan_tokens
from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.planning import Request, plan_layers
from rope_core.kvcache.row import Row
from rope_core.kvcache.windows import release_behind_window

__all__ = ["KVCache", "Pending"]


class KVCache:
    """B rows of L layers. Not thread-safe; one planned operation at a time.

    Every operation raises before anything changes. `rows` are indices of rows, each once; None:
    all. A number for all rows, or one for each, wherever `int | Sequence[int]` is written.

    Args:
        config: what is stored.
        arena: the memory.
        batch: rows at the start.
        max_tokens: longest a row may become. Its pages are reserved. None: pages are reserved as
            the rows grow.
        owner: of the data. Pages that had data of another owner are set to 0 first.

    Raises:
        ConfigError: batch or max_tokens is out of its range.
        TooManyTokens, ArenaFull: as `Arena.reserve`.
    """

    def __init__(
        self,
        config: KVConfig,
        arena: Arena,
        batch: int = 1,
        max_tokens: int | None = None,
        *,
        owner: object = None,
    ) -> None:
        check_batch("batch", batch)
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError("max_tokens", "at least 1", max_tokens)
        self._set_up(config, arena, batch, max_tokens, owner)
        self.holdings.reserve([each.per_row * batch for each in self.holdings.reservations])

    def _set_up(
        self, config: KVConfig, arena: Arena, batch: int, max_tokens: int | None, owner: object
    ) -> None:
        """Set all attributes; nothing is reserved yet."""
        self.config = config
        self.arena = arena
        self.max_tokens = max_tokens
        self.generation = 0
        """Raised by each structural operation: truncate, select_tail, evict, shift, rebase,
        reorder, attach."""
        self.rows: list[Row] = []
        self.rows += [self.new_row() for _ in range(batch)]
        self.layer_lengths = [[0] * batch for _ in range(config.num_layers)]
        """Length of each row in each layer, `[L][B]`."""
        self.append_starts = [[0] * batch for _ in range(config.num_layers)]
        """Length of each row in each layer before its last append, at most."""
        self.group_of = [(0, 0)] * config.num_layers
        """The group of each layer, and its number in the group."""
        for number, group in enumerate(config.groups):
            for layer_in_group, layer in enumerate(group.layers):
                self.group_of[layer] = (number, layer_in_group)
        self.holdings = Holdings(config, arena, self.rows, max_tokens, owner)
        self._is_closed = False

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def length(self) -> list[int]:
        """Length of each row: that of its shortest layer."""
        return [min(lengths) for lengths in zip(*self.layer_lengths, strict=True)]

    def lengths(self, layer: int) -> list[int]:
        """Length of each row in a layer."""
        return [*self.layer_lengths[layer]]

    @property
    def num_segments(self) -> list[int]:
        """Segments of each row."""
        return [len(row.segments) for row in self.rows]

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the arena that are reserved for this cache."""
        return self.holdings.reserved_bytes

    @property
    def own_bytes(self) -> int:
        """Bytes of pages that only this cache refers to."""
        return self._held_bytes(shared=False)

    @property
    def shared_bytes(self) -> int:
        """Bytes of pages that other caches refer to as well."""
        return self._held_bytes(shared=True)

    # appends and attends: plan, run, commit

    def plan(
        self,
        layers: Sequence[int],
        *,
        num_new: Sequence[int] | None = None,
        num_queries: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        positions: Tensor | None = None,
        q_index: Tensor | None = None,
        tail_mask: Tensor | None = None,
    ) -> Pending:
        """Plan an append (`num_new`), an attend (`num_queries`), or a step (both).

        The pages of the new tokens are allocated, and shared pages that are written to are copied.
        Queries are those of the last tokens of each row, new ones included, unless `q_index` is
        given.

        Args:
            layers: indices of layers, all of one group; none twice.
            num_new: new tokens of each row of `rows`; None: no append.
            num_queries: queries of each row of `rows`; None: no attend.
            rows: the rows; None: all.
            positions: int64 `[T]` or `[A, T]`, T tokens of the rows one after the other: of the new
                tokens (and of the queries, the last of them), or of the queries if nothing is
                appended. None: numbers run on, and queries have the positions of their tokens.
            q_index: int64 `[Tq]`, index of each query.
            tail_mask: bool `[n, m]`, or `[B, n, m]` with one for each of `rows`.

        Raises:
            ConfigError: no such layers or rows.
            ShapeError: tensors do not fit; positions of a token differ from those that another
                layer gave it; more queries than tokens.
            TooManyTokens: beyond max_tokens.
            RolledPast: a query needs a page that has been freed.
            ArenaFull: too few pages are free.
        """
        self._check_idle()
        group = check_layers(self.group_of, layers)
        rows = range(len(self.rows)) if rows is None else check_rows(self.batch, rows)
        counts = num_queries if num_new is None else num_new
        for given in (num_new, num_queries):
            if given is not None and len(given) != len(rows):
                raise ConfigError("rows", f"as many as there are counts, {len(given)}", len(rows))
        is_plain = positions is None and q_index is None and tail_mask is None
        if is_plain and num_new is not None and len(layers) == 1:
            ones = [1] * len(rows)
            asked = num_queries is None or list(num_queries) == ones
            if asked and list(num_new) == ones and is_usual(self, layers[0], rows):
                attends = num_queries is not None
                return self._planned(plan_tokens(self, layers[0], rows, ones, attends=attends))
        if positions is not None:
            given_positions = check_positions(self.config, positions, sum(counts or ()))
        else:
            given_positions = None
        if q_index is not None or tail_mask is not None:
            check_tail_mask(tail_mask, num_queries, len(rows))
            checked_index = check_index(q_index, num_queries)
        else:
            checked_index = None
        request = Request(
            group, layers, rows, num_new, num_queries, given_positions, checked_index, tail_mask
        )
        return self._planned(plan_layers(self, request))

    def commit(self, pending: Pending) -> None:
        """Move the lengths: the plans have run."""
        self._end(pending)
        for layer, rows, counts in pending.new_lengths:
            lengths, starts = self.layer_lengths[layer], self.append_starts[layer]
            for row, count in zip(rows, counts, strict=True):
                if count:
                    starts[row] = lengths[row]
                    lengths[row] += count
        holdings = self.holdings
        if pending.replaced:
            self._release_replaced(pending)
        if pending.on_commit is not None:
            pending.on_commit()
        if self._is_closed:
            holdings.give_up()
            return
        for layer, rows, _ in pending.new_lengths:
            release_behind_window(self, self.group_of[layer][0], rows)
        if pending.allocated or pending.replaced or pending.on_commit is not None:
            holdings.settle()

    def discard(self, pending: Pending) -> None:
        """Give the pages of a plan back: it did not run, or has failed."""
        self._end(pending)
        self.undo(pending)
        if self._is_closed:
            self.holdings.give_up()

    def undo(self, pending: Pending) -> None:
        """Undo the changes of a plan, which may be incomplete."""
        holdings = self.holdings
        for group, table, page, page_group in reversed(pending.replaced):
            copy = table[page]
            table[page] = page_group
            holdings.release(group, np.array([copy], np.int32))
        for group, table, page_group in reversed(pending.allocated):
            table.pop()
            holdings.release(group, np.array([page_group], np.int32))
        for row, undo in reversed(pending.appended):
            row.undo(undo)
        if pending.on_discard is not None:
            pending.on_discard()
        holdings.settle()

    # operations on all layers; those that return nothing move no bytes

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Forget the tokens behind a length in all layers. Raises LengthConflict, RolledPast."""
        self._check_idle()
        structure.truncate(self, one_per_row("length", lengths, self.batch))
        self.generation += 1

    def fork(
        self,
        rows: Sequence[int] | None = None,
        lengths: int | Sequence[int] | None = None,
        count: int = 1,
        *,
        strict: bool = False,
    ) -> list["KVCache"]:
        """Return caches that share the pages of this one, up to the shortest layer of each row.

        Each has its own reservation for max_tokens, without what it shares. All or none. Rows may
        repeat. `strict`: LayersDiffer if layers have different lengths. Raises ConfigError,
        LengthConflict, TooManyTokens, ArenaFull, RolledPast.
        """
        self._check_idle()
        rows = check_rows(self.batch, rows, repeats=True)
        check_batch("rows", len(rows))
        cut = None if lengths is None else one_per_row("length", lengths, len(rows))
        forks: list[KVCache] = []
        try:
            for _ in range(count):
                segments = sharing.forked_rows(self, rows, cut, strict=strict)
                fork = KVCache.__new__(KVCache)
                owner = self.holdings.owner
                fork._set_up(self.config, self.arena, len(rows), self.max_tokens, owner)
                for number, of_row in enumerate(segments):
                    fork.rows[number].set_segments(of_row)
                    for of_layer in (*fork.layer_lengths, *fork.append_starts):
                        of_layer[number] = fork.rows[number].num_tokens
                sharing.share(fork.holdings, self.holdings, len(rows))
                forks.append(fork)
        except BaseException:
            for fork in forks:
                fork.close()
            raise
        return forks

    def reorder(self, rows: Sequence[int]) -> None:
        """Make the rows those of the list, which may repeat; the reservation follows.

        Raises ConfigError, LayersDiffer, TooManyTokens, ArenaFull.
        """
        self._check_idle()
        check_batch("rows", len(rows))
        sharing.reorder(self, check_rows(self.batch, rows, repeats=True))
        self.generation += 1

    def evict(
        self,
        start: int | Sequence[int],
        stop: int | Sequence[int],
        *,
        rows: Sequence[int] | None = None,
        close: bool = True,
    ) -> None:
        """Remove the places [start, stop) of rows.

        `close`: index of later tokens moves back by stop - start, and position so that the first
        kept token takes the place of the first removed one. Raises ConfigError, LayersDiffer,
        RolledPast, TooManySegments.
        """
        self._check_idle()
        rows = check_rows(self.batch, rows)
        starts = one_per_row("start", start, len(rows))
        stops = one_per_row("stop", stop, len(rows))
        structure.evict(self, rows, starts, stops, close=close)
        self.generation += 1

    def shift(
        self,
        start: int | Sequence[int],
        stop: int | Sequence[int],
        delta: int | Sequence[int],
        *,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add `delta` (a number, or one for each axis) to the positions of [start, stop).

        Raises ConfigError, LayersDiffer, TooManySegments.
        """
        self._check_idle()
        rows = check_rows(self.batch, rows)
        starts = one_per_row("start", start, len(rows))
        stops = one_per_row("stop", stop, len(rows))
        structure.shift(self, rows, starts, stops, self._of_axes("delta", delta))
        self.generation += 1

    def attach(
        self,
        source: "KVCache",
        start: int,
        stop: int,
        *,
        position: int | Sequence[int] | None = None,
    ) -> None:
        """Append the tokens [start, stop) of another cache (or this one) by reference.

        Rows: as many in the source, or one that all rows get. `position`: of the first token, a
        number or one for each axis; None: the row's next. Index runs on. Raises ConfigError,
        LayersDiffer, TooManyTokens, RolledPast, TooManySegments.
        """
        self._check_idle()
        first = None if position is None else self._of_axes("position", position)
        structure.attach(self, source, start, stop, first)
        self.generation += 1

    # operations that move bytes: plan, run_moves, commit

    def plan_select_tail(self, num_tail: int, kept: Sequence[Sequence[int]]) -> Pending:
        """Replace the last `num_tail` tokens of each row by those at the increasing offsets `kept`.

        Positions stay, indices close up. Raises ConfigError, LengthConflict, LayersDiffer,
        RolledPast, ArenaFull.
        """
        self._check_idle()
        if len(kept) != self.batch:
            raise ConfigError("kept", f"a list for each of {self.batch} rows", len(kept))
        return self._planned(moving.plan_select_tail(self, num_tail, kept))

    def plan_rebase(
        self, groups: Sequence[int], to: Sequence[RopeConfig], *, copy: bool = False
    ) -> Pending:
        """Change the ropes of groups, given by number. Keys are rewritten in new pages.

        Raises ConfigError, LayersDiffer, ArenaFull; SharedPages if other caches hold pages of this
        one, unless `copy`.
        """
        self._check_idle()
        new = [
            replace(self.config.groups[number], rope=rope)
            for number, rope in zip(groups, to, strict=True)
        ]
        return self._planned(moving.plan_rebase(self, groups, new, copy=copy))

    def plan_compaction(self, max_segments: int = 8) -> Pending | None:
        """Join adjacent segments of rows that have more than `max_segments`.

        The shorter of two segments is rewritten, its keys with one more rounding. A plan may leave
        more than `max_segments`: call again after the commit. None: nothing can be joined, because
        there are few segments, or the index does not run on. Raises LayersDiffer, ArenaFull.
        """
        self._check_idle()
        pending = compaction.plan_compaction(self, max_segments)
        return None if pending is None else self._planned(pending)

    def close(self) -> None:
        """Give back all pages and the reservation, those of a planned operation when it ends.

        Idempotent.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self.holdings.pending is None:
            self.holdings.give_up()

    # for the modules of this package

    def new_row(self) -> Row:
        """Return a row without tokens."""
        return Row(self.config.num_axes, len(self.config.groups), self.arena.page_tokens)

    def _of_axes(self, name: str, value: int | Sequence[int]) -> Sequence[int]:
        num_axes = self.config.num_axes
        numbers = [value] * num_axes if isinstance(value, int) else value
        if len(numbers) != num_axes:
            raise ConfigError(name, f"a number, or one for each of {num_axes} axes", brief(value))
        for each in numbers:
            check_in_range(name, each, -MAX_POSITION, MAX_POSITION)
        return numbers

    def _planned(self, pending: Pending) -> Pending:
        self.holdings.pending = pending
        return pending

    def _check_idle(self) -> None:
        if self._is_closed:
            raise RuntimeError("the cache is closed")
        if self.holdings.pending is not None:
            raise RuntimeError("another operation of the cache has been planned")

    def _end(self, pending: Pending) -> None:
        if self.holdings.pending is not pending:
            raise RuntimeError("the operation has ended, or is of another cache")
        self.holdings.pending = None

    def _release_replaced(self, pending: Pending) -> None:
        for group in {each[0] for each in pending.replaced}:
            former = [each[3] for each in pending.replaced if each[0] == group]
            self.holdings.release(group, np.array(former, np.int32))

    def _held_bytes(self, *, shared: bool) -> int:
        num_bytes = 0
        for group, pool in enumerate(self.holdings.pools):
            references = self.holdings.held_with_repeats(group)
            held, counts = np.unique(references, return_counts=True)
            is_shared = pool.references[held] != counts
            num_bytes += int((is_shared == shared).sum()) * pool.shape.group_bytes
        return num_bytes
