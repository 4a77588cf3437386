"""A cache of keys and values: rows of tokens, and their state on the host."""

from collections.abc import Sequence
from dataclasses import replace

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.kvcache import compaction, moving, offload, sharing, structure
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.arguments import check_batch, check_rows, one_per_axis, one_per_row
from rope_core.kvcache.cache_state import CacheState
from rope_core.kvcache.pending import Pending

__all__ = ["KVCache", "Pending"]


class KVCache(CacheState):
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
        structure.shift(self, rows, starts, stops, one_per_axis(self.config, "delta", delta))
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
        source._check_not_offloaded()
        first = None if position is None else one_per_axis(self.config, "position", position)
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

    def plan_offload(self, host: Arena) -> Pending:
        """Move all pages to another arena of the same page_tokens, without a reservation for more.

        Once this is committed, only `plan_restore` and `close` are allowed. Raises SharedPages if
        other caches hold pages of this one, TooManyTokens, ArenaFull.
        """
        self._check_idle()
        return self._planned(offload.plan_offload(self, host))

    def plan_restore(self, arena: Arena) -> Pending:
        """Move all pages of an offloaded cache to an arena, and reserve what max_tokens needs.

        Raises TooManyTokens, ArenaFull.
        """
        if self.bytes_to_restore is None:
            raise RuntimeError("the cache is not offloaded")
        self._check_no_pending()
        return self._planned(offload.plan_restore(self, arena))
