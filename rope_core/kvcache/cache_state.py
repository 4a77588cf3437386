"""The state of a cache on the host, and appends and attends, which do not change its structure."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from rope_core.errors import ConfigError
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.arguments import (
    check_batch,
    check_index,
    check_layers,
    check_positions,
    check_rows,
    check_tail_mask,
)
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.decoding import is_usual, plan_tokens
from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.planning import Request, plan_layers
from rope_core.kvcache.row import Row
from rope_core.kvcache.windows import release_behind_window


class CacheState:
    """Base class of `KVCache`: rows, lengths and pages, and the operations of tokens.

    Arguments and errors of the constructor: see `KVCache`.
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
        self.bytes_to_restore: int | None = None
        """Of an offloaded cache: bytes that it had reserved; None: it is not offloaded."""
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
        return self.holdings.num_bytes(shared=False)

    @property
    def shared_bytes(self) -> int:
        """Bytes of pages that other caches refer to as well."""
        return self.holdings.num_bytes(shared=True)

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
        for numbers in (num_new, num_queries):
            if numbers is not None and len(numbers) != len(rows):
                raise ConfigError("rows", f"as many as there are counts, {len(numbers)}", len(rows))
        is_plain = positions is None and q_index is None and tail_mask is None
        if is_plain and num_new is not None and len(layers) == 1:
            ones = [1] * len(rows)
            attends = num_queries is not None
            is_single = list(num_new) == ones and (not attends or list(num_queries or ()) == ones)
            if is_single and is_usual(self, layers[0], rows):
                return self._planned(plan_tokens(self, layers[0], rows, ones, attends=attends))
        check_tail_mask(tail_mask, num_queries, len(rows))
        request = Request(
            group,
            layers,
            rows,
            num_new,
            num_queries,
            check_positions(self.config, positions, sum(counts or ())),
            check_index(q_index, num_queries),
            tail_mask,
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
            holdings = self.holdings  # others after an offload
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

    def _planned(self, pending: Pending) -> Pending:
        self.holdings.pending = pending
        return pending

    def _check_idle(self) -> None:  # calls nothing where all is well: each step comes here
        if self.bytes_to_restore is not None:
            self._check_not_offloaded()
        if self._is_closed or self.holdings.pending is not None:
            self._check_no_pending()

    def _check_not_offloaded(self) -> None:
        if self.bytes_to_restore is not None:
            raise RuntimeError("the cache is offloaded")

    def _check_no_pending(self) -> None:
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
            self.arena.num_copied_pages += len({*former}) * len(self.config.groups[group].layers)
            self.holdings.release(group, np.array(former, np.int32))
