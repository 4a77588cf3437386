"""A cache of keys and values: rows of tokens, and their state on the host."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.plan import LayerPlan, MovePlan


@dataclass(slots=True)
class Pending:
    """Operations that have been planned and wait for `commit` or `discard`; one at a time."""

    layers: list[LayerPlan]
    """A plan for each layer, in the order in which the caller named the layers."""


class KVCache:
    """B rows of L layers. Not thread-safe; one planned operation at a time.

    Every operation raises before anything changes. `rows` are indices of rows, each once; None: all.
    A number for all rows, or one for each, wherever `int | Sequence[int]` is written.

    Args:
        config: what is stored.
        arena: the memory.
        batch: rows at the start.
        max_tokens: longest a row may become. Its pages are reserved. None: pages are reserved as
            the rows grow.

    Raises:
        TooManyTokens, ArenaFull: as `Arena.reserve`.
    """

    def __init__(
        self, config: KVConfig, arena: Arena, batch: int = 1, max_tokens: int | None = None
    ) -> None:
        raise NotImplementedError

    config: KVConfig
    arena: Arena
    max_tokens: int | None
    batch: int
    generation: int
    """Raised by each structural operation: truncate, select_tail, evict, shift, rebase, reorder,
    attach."""

    @property
    def length(self) -> list[int]:
        """Length of each row: that of its shortest layer."""
        raise NotImplementedError

    def lengths(self, layer: int) -> list[int]:
        """Length of each row in a layer."""
        raise NotImplementedError

    @property
    def num_segments(self) -> list[int]:
        """Segments of each row."""
        raise NotImplementedError

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the arena that are reserved for this cache."""
        raise NotImplementedError

    @property
    def own_bytes(self) -> int:
        """Bytes of pages that only this cache holds."""
        raise NotImplementedError

    @property
    def shared_bytes(self) -> int:
        """Bytes of pages that other caches hold as well."""
        raise NotImplementedError

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
            tail_mask: bool `[n, m]`, or `[B, n, m]` with one for each row.

        Raises:
            ShapeError: tensors do not fit; positions of a token differ from those that another
                layer gave it; more queries than tokens.
            TooManyTokens: beyond max_tokens.
            RolledPast: a query needs a page that has been freed.
            ArenaFull: too few pages are free.
        """
        raise NotImplementedError

    def commit(self, pending: Pending) -> None:
        """Move the lengths: the plans have run."""
        raise NotImplementedError

    def discard(self, pending: Pending) -> None:
        """Give the pages of a plan back: it did not run, or has failed."""
        raise NotImplementedError

    # operations on all layers; those without a return value move no bytes

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Forget the tokens behind a length in all layers. Raises LengthConflict, RolledPast."""
        raise NotImplementedError

    def plan_select_tail(self, num_tail: int, kept: Sequence[Sequence[int]]) -> MovePlan:
        """Replace the last `num_tail` tokens of each row by those at the increasing offsets `kept`.

        The state is changed at once; the caller runs the plan before anything else of this cache.
        Positions stay, indices close up. Raises LengthConflict, LayersDiffer, ShapeError.
        """
        raise NotImplementedError

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
        repeat. `strict`: LayersDiffer if layers have different lengths. Raises LengthConflict,
        ArenaFull, RolledPast.
        """
        raise NotImplementedError

    def reorder(self, rows: Sequence[int]) -> None:
        """Make the rows those of the list, which may repeat; the reservation follows.

        Raises LayersDiffer, ShapeError, ArenaFull.
        """
        raise NotImplementedError

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
        kept token takes the place of the first removed one. Raises ShapeError, LayersDiffer,
        RolledPast.
        """
        raise NotImplementedError

    def shift(
        self,
        start: int | Sequence[int],
        stop: int | Sequence[int],
        delta: int | Sequence[int],
        *,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add `delta` (a number, or one for each axis) to the positions of [start, stop)."""
        raise NotImplementedError

    def attach(
        self,
        source: "KVCache",
        start: int,
        stop: int,
        *,
        position: int | Sequence[int] | None = None,
    ) -> None:
        """Append the tokens [start, stop) of another cache (or this one) by reference.

        Rows: as many in the source, or one that all rows get. `position`: of the first token; None:
        the row's next. Index runs on. Raises ShapeError, LayersDiffer, TooManyTokens, ArenaFull,
        RolledPast.
        """
        raise NotImplementedError

    def plan_rebase(self, groups: Sequence[int], to: Sequence[object]) -> MovePlan:
        """Change the ropes of groups, and rewrite their keys in place; refused for shared pages."""
        raise NotImplementedError

    def plan_compaction(self, max_segments: int = 8) -> MovePlan | None:
        """Join adjacent segments of rows that have more than `max_segments`; None: nothing to do.

        Changes the state at once, as `plan_select_tail`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back all pages and the reservation. Idempotent."""
        raise NotImplementedError
